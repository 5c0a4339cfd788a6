//! What a peer says on a mesh connection, as client and as server: the verdict does not depend on where its bytes were cut.

use std::task::{Context, Poll, Waker};

use http::Request;
use isthmus_http2::{Connection, Http2Settings, accept, connect};
use tokio::io::{AsyncBufRead, AsyncWrite, BufReader, join, sink};

/// How the connection ended; it ends with the bytes at the latest.
fn verdict<S: AsyncBufRead + AsyncWrite + Unpin>(mut connection: Connection<S>) -> Option<u32> {
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..100_000 {
        match connection.poll(&mut context) {
            Poll::Ready(ended) => return ended.err().and_then(|error| error.reason()).map(u32::from),
            Poll::Pending => {}
        }
    }
    panic!("it does not end");
}

fn server(bytes: &[u8], step: usize) -> Option<u32> {
    let io = join(BufReader::with_capacity(step, bytes), sink());
    let mut accepting = std::pin::pin!(accept(io, Http2Settings::MESH));
    let mut context = Context::from_waker(Waker::noop());
    match accepting.as_mut().poll(&mut context) {
        Poll::Ready(Ok(connection)) => verdict(connection),
        Poll::Ready(Err(_)) => None,
        Poll::Pending => panic!("all its bytes were there"),
    }
}

fn client(bytes: &[u8], step: usize) -> Option<u32> {
    let io = join(BufReader::with_capacity(step, bytes), sink());
    let (sender, connection) = connect(io, Http2Settings::MESH);
    let asked: Vec<_> = (0..2).map(|_| sender.send_request(Request::new(()), true).unwrap()).collect();
    let verdict = verdict(connection);
    drop(asked);
    verdict
}

pub fn run(bytes: &[u8]) {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let step = usize::from(*step).max(1);
    assert_eq!(server(bytes, step), server(bytes, 1 << 16));
    assert_eq!(client(bytes, step), client(bytes, 1 << 16));
}
