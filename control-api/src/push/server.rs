//! Discovery on the wire: what generated code would do, with answers that are bytes already. So a resource that thousands
//! of proxies are sent is written once ([`super::encoded`]), and what waits for a proxy is as large as its bytes.

use super::Push;
use isthmus_proto::codec::Lean;
use isthmus_proto::discovery::v1::ProxyMessage;
use isthmus_proto::discovery::v1::discovery_server::SERVICE_NAME;
use prost::bytes::BufMut;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic::codegen::{Body, StdError, http};
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tower::Service;

const PATH: &str = "/isthmus.discovery.v1.Discovery/Stream";
/// Of a proxy's messages: a hello with all its subscriptions.
const MOST: usize = 4 << 20;
/// As [`Lean`] has them.
const BUFFER: usize = 512;
const TOGETHER: usize = 1 << 10;

/// A `ControlMessage`, written.
pub(super) type Message = Box<[u8]>;

/// The service that is registered with tonic.
#[derive(Clone, Debug)]
pub struct Server(pub Push);

impl NamedService for Server {
    const NAME: &'static str = SERVICE_NAME;
}

type Answer = http::Response<tonic::body::Body>;

impl<B> Service<http::Request<B>> for Server
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != PATH {
            return Box::pin(ready(Ok(Status::unimplemented("there is no such method").into_http())));
        }
        let push = self.0.clone();
        let stream = tower::service_fn(move |request: Request<Streaming<ProxyMessage>>| -> Ready<_> {
            ready(push.stream(request))
        });
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(Written).max_decoding_message_size(MOST);
            Ok(grpc.streaming(stream, request).await)
        })
    }
}

/// Messages in as everywhere, bytes out as they are.
struct Written;

impl Codec for Written {
    type Encode = Message;
    type Decode = ProxyMessage;
    type Encoder = Written;
    type Decoder = <Lean<(), ProxyMessage> as Codec>::Decoder;

    fn encoder(&mut self) -> Written {
        Written
    }

    fn decoder(&mut self) -> Self::Decoder {
        Lean::<(), ProxyMessage>::default().decoder()
    }
}

impl Encoder for Written {
    type Item = Message;
    type Error = Status;

    fn encode(&mut self, message: Message, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.len());
        to.put_slice(&message);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, TOGETHER)
    }
}
