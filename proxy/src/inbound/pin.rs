//! A tie between one connection of the caller's app and one of ours, for connection-bound authentication (see
//! `outbound/pin.rs`). The stream that asks for it holds it: when it ends, so does the app's connection.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use isthmus_http2::{RecvStream, SendResponse};

use super::mesh::Peer;
use super::{Inbound, spans};
use crate::http::internal::{DENIED, take_pin};
use crate::http::server::stopped;
use crate::reason::Reason;
use crate::state::policy::Arrived;

/// Ties of one mesh connection. Each may hold a connection to the app.
const MAX_PINS: usize = 1_024;

pub(super) async fn hold(
    inbound: &Rc<Inbound>,
    peer: &Peer,
    mut request: Request<RecvStream>,
    mut respond: SendResponse,
) {
    let reason = match take_pin(request.headers_mut()) {
        Ok(Some(id)) => match Tied::new(inbound, peer, id) {
            Some(tied) => {
                let mut stop = inbound.needs.stop.clone();
                return tokio::select! {
                    () = wait(tied, request.into_body(), respond) => {}
                    () = stopped(&mut stop) => {}
                };
            }
            None => Reason::Overloaded,
        },
        Ok(None) | Err(_) => Reason::BadInternalHeader,
    };
    let (source, whom) = (peer.source.ip(), (Some(&peer.identity.id), Arrived::Mesh));
    inbound.refuse(reason, source, "a tie between connections that cannot be");
    spans::unread(inbound, source, (SocketAddr::new(peer.local.ip(), 0), None), whom, reason);
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(DENIED, http::HeaderValue::from_static(reason.word()));
    let _ = respond.send_response(response, true);
}

/// Nothing is said on it: its end is all that matters. What a peer sends all the same fills its window and stops.
async fn wait(_tied: Tied<'_>, mut body: RecvStream, mut respond: SendResponse) {
    let Ok(_open) = respond.send_response(Response::new(()), false) else { return };
    while let Some(Ok(_)) = body.data().await {}
}

/// Known to the requests of its mesh connection as long as it lives.
struct Tied<'a> {
    peer: &'a Peer,
    id: u64,
}

impl<'a> Tied<'a> {
    fn new(inbound: &Inbound, peer: &'a Peer, id: u64) -> Option<Tied<'a>> {
        let mut pins = peer.pins.borrow_mut();
        if pins.len() >= MAX_PINS || pins.contains_key(&id) {
            return None;
        }
        pins.insert(id, inbound.app.home_of_one());
        Some(Tied { peer, id })
    }
}

impl Drop for Tied<'_> {
    fn drop(&mut self) {
        self.peer.pins.borrow_mut().remove(&self.id);
    }
}
