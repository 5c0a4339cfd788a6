//! A gRPC app with one unary method: it answers each call with one message of 128 bytes and trailers, over HTTP/2 by
//! prior knowledge. On the wire it is what any gRPC server sends; the message itself nobody looks at.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

/// What a client calls.
pub(crate) const PATH: &str = "/bench.Bench/Call";
/// Bytes of a message without its frame.
pub(crate) const MESSAGE: usize = 128;
/// Of streams and of the connection: never the reason for a wait.
const WINDOW: u32 = 1 << 20;

/// gRPC's frame (not compressed, length) and the message.
pub(crate) fn framed() -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&(MESSAGE as u32).to_be_bytes());
    frame.resize(frame.len() + MESSAGE, b'x');
    frame.into()
}

/// Serves each connection until its client is gone.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Owned by its connection: it ends when the client does, or with this process.
        tokio::spawn(async move {
            // The client is the one that tells what went wrong.
            let _ = converse(stream).await;
        });
    }
}

async fn converse(stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_concurrent_streams(1024);
    let mut connection = builder.handshake(stream).await?;
    let message = framed();
    while let Some(call) = connection.accept().await {
        let (request, respond) = call?;
        // One for each call, as a gRPC server has it; it ends with its stream.
        tokio::spawn(answer(request, respond, message.clone()));
    }
    Ok(())
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    message: Bytes,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let length = chunk?.len();
        body.flow_control().release_capacity(length)?;
    }
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}
