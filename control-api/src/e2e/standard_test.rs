//! Reflection and health, as grpcurl and a load balancer ask for them.

use super::*;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

async fn reflect(channel: Channel, ask: MessageRequest) -> Result<ServerReflectionResponse, Status> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut answer =
        ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(request)).await?.into_inner();
    Ok(answer.message().await?.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_and_health_answer_operators_and_nobody_else() {
    let world = World::start().await;
    let mine = world.connect_as(world.operator_identity(), world.control.operators).await.unwrap();
    let listed = reflect(mine.clone(), MessageRequest::ListServices(String::new())).await.unwrap();
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else { panic!("{listed:?}") };
    let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    for name in ["isthmus.admin.v1.Admin", "isthmus.admin.v1.Login", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("discovery")), "{names:?}");
    let symbol = MessageRequest::FileContainingSymbol("isthmus.admin.v1.Admin.Apply".to_string());
    let found = reflect(mine.clone(), symbol).await.unwrap();
    assert!(matches!(found.message_response, Some(MessageResponse::FileDescriptorResponse(_))), "{found:?}");

    let mut health = HealthClient::new(mine);
    loop {
        let answer = health.check(HealthCheckRequest { service: "isthmus.admin.v1.Admin".to_string() }).await;
        // The first look comes with the first tick of the control plane.
        if answer.is_ok_and(|answer| answer.into_inner().status() == ServingStatus::Serving) {
            break;
        }
        tokio::task::yield_now().await;
    }
    let store = world.empty_store();
    let root = world.token("shop/web").await.root;
    let expected = ExpectedPeer::PinnedRoot(root, SpiffeId::control_plane(store.trust_domain()));
    let stranger = connect(store.client_config(&[b"h2"], expected), world.control.operators).await.unwrap();
    let refused = reflect(stranger.clone(), MessageRequest::ListServices(String::new())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = HealthClient::new(stranger).check(HealthCheckRequest { service: String::new() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}
