//! The services that gRPC's own tools expect, for whoever has an operator's certificate: what there is to call
//! (reflection), and whether it answers (health).

use crate::ledger::Ledger;
use isthmus_proto::DESCRIPTORS;
use std::sync::Arc;
use std::time::Duration;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

/// As `/ready` is asked by others.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What may be asked about; empty: all.
const SERVICES: [&str; 2] = ["", "isthmus.admin.v1.Admin"];

/// Only what operators use: what proxies say to the control plane is not answered on this port.
pub fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, String> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let names = ["Access", "Admin", "Authority", "Login", "Policy", "Resources"];
    let all = names.into_iter().fold(builder, |b, name| b.with_service_name(format!("isthmus.admin.v1.{name}")));
    all.with_service_name("grpc.health.v1.Health").build_v1().map_err(|error| error.to_string())
}

pub fn health() -> (HealthReporter, HealthServer<impl Health>) {
    tonic_health::server::health_reporter()
}

/// Serving for as long as the store takes writes. Never returns; to be cancelled.
pub async fn keep(reporter: HealthReporter, ledger: Arc<Ledger>) {
    loop {
        let status = if ledger.has_failed() { ServingStatus::NotServing } else { ServingStatus::Serving };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
