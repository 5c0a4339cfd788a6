//! The stages of a connection of the app, one after the other: what comes first, then HTTP/1 or a tunnel for as long as the
//! app likes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use bytes::BytesMut;
use futures::TryFutureExt as _;
use tokio::net::TcpStream;

use super::Outbound;
use super::connection::{Carried, serve_http1};

/// What a connection is in. Each stage has a box of its own: what only the beginning needs is given back, since what
/// follows may idle for days.
pub(super) struct Stage<'a>(Pin<Box<dyn Future<Output = io::Result<Next<'a>>> + 'a>>);

/// `None`: the connection has ended.
pub(super) type Next<'a> = Option<Stage<'a>>;

impl<'a> Stage<'a> {
    pub(super) fn new(stage: impl Future<Output = io::Result<Next<'a>>> + 'a) -> Stage<'a> {
        Stage(Box::pin(stage))
    }

    /// Goes through this one and all that follow.
    pub(super) async fn run(&mut self) -> io::Result<()> {
        while let Some(next) = self.0.as_mut().await? {
            *self = next;
        }
        Ok(())
    }

    pub(super) fn http1(
        outbound: &'a Rc<Outbound>,
        app: TcpStream,
        bytes: BytesMut,
        destination: SocketAddr,
    ) -> Stage<'a> {
        let served = serve_http1(outbound, app, bytes, destination);
        Stage::new(served.map_ok(|carried| Stage::tunnel(outbound, carried)))
    }

    pub(super) fn tunnel(outbound: &'a Rc<Outbound>, carried: Carried) -> Next<'a> {
        carried.map(|(app, reached)| Stage::new(reached.carry(outbound, app).map_ok(|()| None)))
    }
}
