//! The health service that gRPC servers share (grpc.health.v1), by its field numbers.

use std::net::SocketAddr;

use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Uri};

use crate::tcp::{DialOptions, dial};

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// grpc.health.v1.HealthCheckResponse.ServingStatus.SERVING
const SERVING: i32 = 1;
/// An answer has two bytes.
const MOST: usize = 1024;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Question {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Answer {
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

pub(super) async fn ask(at: SocketAddr, service: &str, options: DialOptions) -> Result<(), String> {
    let failed = |what: &dyn std::fmt::Display| format!("gRPC health of `{service}` at {at}: {what}");
    let endpoint = Endpoint::try_from(format!("http://{at}")).map_err(|error| failed(&error))?;
    let connector = tower::service_fn(move |_: Uri| async move { dial(at, options).await.map(TokioIo::new) });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| failed(&error))?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MOST);
    client.ready().await.map_err(|error| failed(&error))?;
    let codec = tonic_prost::ProstCodec::<Question, Answer>::default();
    let path = ::http::uri::PathAndQuery::from_static(METHOD);
    let question = Question { service: service.to_owned() };
    let answer = client.unary(tonic::Request::new(question), path, codec).await;
    match answer.map_err(|status| failed(&status.message()))?.into_inner().status {
        SERVING => Ok(()),
        status => Err(failed(&format_args!("status {status}"))),
    }
}
