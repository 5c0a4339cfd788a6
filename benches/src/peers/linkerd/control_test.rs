//! What the control plane says to a proxy, asked as one would: without a network.

use std::fs;
use std::sync::Arc;

use linkerd2_proxy_api::destination::GetDestination;
use linkerd2_proxy_api::destination::destination_server::Destination;
use linkerd2_proxy_api::identity::CertifyRequest;
use linkerd2_proxy_api::identity::identity_server::Identity;
use linkerd2_proxy_api::inbound::PortSpec;
use linkerd2_proxy_api::inbound::authn::Permit;
use linkerd2_proxy_api::inbound::inbound_server_policies_server::InboundServerPolicies;
use linkerd2_proxy_api::outbound::TrafficSpec;
use linkerd2_proxy_api::outbound::outbound_policies_server::OutboundPolicies;
use linkerd2_proxy_api::outbound::traffic_spec::Target;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tempfile::TempDir;
use tonic::{Code, Request};

use super::super::identity::documents;
use super::*;
use crate::certificates::Certificates;

const CALLEE: &str = "callee.bench.example";

/// The callee's control plane, and its files.
fn control(dir: &TempDir, opaque: bool) -> Control {
    let certificates = Certificates::make(dir.path()).unwrap();
    Control::of(Mesh {
        listen: "127.0.0.1:8090".parse().unwrap(),
        service: "10.112.0.10:80".parse().unwrap(),
        endpoint: "10.99.0.2:8080".parse().unwrap(),
        inbound_port: 15006,
        opaque,
        certifies: CALLEE.to_owned(),
        caller: certificates.caller.dns_name.clone(),
        callee: certificates.callee.dns_name.clone(),
        authority: certificates.authority.clone(),
        authority_key: certificates.authority_key.clone(),
    })
    .unwrap()
}

fn request(dir: &TempDir, request_for: &str, identity: &str) -> Request<CertifyRequest> {
    let files = dir.path().join(format!("documents-{request_for}-{identity}"));
    documents(&files, request_for).unwrap();
    Request::new(CertifyRequest {
        identity: identity.to_owned(),
        token: b"bench".to_vec(),
        certificate_signing_request: fs::read(files.join("csr.der")).unwrap(),
    })
}

#[tokio::test]
async fn a_proxy_gets_a_certificate_of_the_authority_for_its_own_name() {
    let dir = TempDir::new().unwrap();
    let control = control(&dir, false);
    let answer = control.certify(request(&dir, CALLEE, CALLEE)).await.unwrap().into_inner();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&control.mesh.authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let leaf = CertificateDer::from(answer.leaf_certificate);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    let verify = |name: &'static str| {
        verifier.verify_server_cert(&leaf, &[], &ServerName::try_from(name).unwrap(), &[], now).is_ok()
    };
    assert!(verify(CALLEE));
    assert!(!verify("caller.bench.example"));
}

#[tokio::test]
async fn no_other_name_is_certified() {
    let dir = TempDir::new().unwrap();
    let control = control(&dir, false);
    let other = "caller.bench.example";
    for (request_for, identity) in [(other, other), (other, CALLEE), (CALLEE, other)] {
        let refused = control.certify(request(&dir, request_for, identity)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "a request for {request_for} of {identity}");
    }
}

#[tokio::test]
async fn every_port_demands_the_callers_certificate() {
    for opaque in [false, true] {
        let dir = TempDir::new().unwrap();
        let control = control(&dir, opaque);
        for port in [8080, 15006, 4191] {
            let asked = Request::new(PortSpec { workload: CALLEE.to_owned(), port });
            let server = control.get_port(asked).await.unwrap().into_inner();
            assert_eq!(server.authorizations.len(), 1, "port {port}");
            let permit = server.authorizations[0].authentication.clone().unwrap().permit.unwrap();
            let Permit::MeshTls(mesh) = permit else { panic!("port {port} permits {permit:?}") };
            let Some(inbound_clients) = mesh.clients else { panic!("port {port} permits nobody") };
            assert!(format!("{inbound_clients:?}").contains("caller.bench.example"), "{inbound_clients:?}");
        }
    }
}

#[tokio::test]
async fn the_service_is_known_by_name_and_address_and_nothing_else_is() {
    let dir = TempDir::new().unwrap();
    let control = control(&dir, true);
    for (path, known) in [("10.112.0.10:80", true), ("app.bench.svc.cluster.local:80", true), ("10.99.0.2:8080", false)]
    {
        let asked = Request::new(GetDestination { path: path.to_owned(), ..GetDestination::default() });
        assert_eq!(control.get_profile(asked).await.is_ok(), known, "{path}");
    }
    for (address, known) in [(control.mesh.service, true), (control.mesh.endpoint, false)] {
        let target = Some(Target::Addr(address.into()));
        let asked = Request::new(TrafficSpec { source_workload: String::new(), target });
        assert_eq!(OutboundPolicies::get(&control, asked).await.is_ok(), known, "{address}");
    }
}

#[tokio::test]
async fn an_answer_is_sent_once_and_held() {
    let dir = TempDir::new().unwrap();
    let control = control(&dir, false);
    let path = control.mesh.path();
    let asked = Request::new(GetDestination { path, ..GetDestination::default() });
    let mut answers = Destination::get(&control, asked).await.unwrap().into_inner();
    assert!(matches!(answers.next().await, Some(Ok(_))));
    assert!(waits(answers.next()), "the stream ended, or said more");
}

/// True when it is not ready.
fn waits<T>(future: impl Future<Output = T>) -> bool {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    std::pin::pin!(future).as_mut().poll(&mut context).is_pending()
}
