//! Connection-bound authentication (NTLM, Negotiate: RFC 4559 §6): the app that is called takes a whole connection for the
//! user who proved himself on it once. So an app connection that carries such credentials is tied to one connection of the
//! callee's app for its life: pooled, it would give one user another's session.
//!
//! Across the mesh a stream of its own holds the tie (extended CONNECT, `:protocol` = `isthmus-pin`): it ends with the app's
//! connection, and the callee then closes its side. Requests name it by a random id.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use h2::ext::Protocol;
use http::header::HeaderValue;
use http::{Method, Request, Uri};
use isthmus_http2::{Answering, SendStream, StreamError};

use super::pool::Slot;
use crate::http::h1::exchange::Home;
use crate::http::internal::{PIN, PIN_PROTOCOL};
use crate::state::Endpoint;

/// What one app connection is tied to.
#[derive(Default)]
pub(super) struct Pin {
    bound: Cell<bool>,
    tie: RefCell<Option<Rc<Tie>>>,
    /// Towards callees without a sidecar.
    plain: RefCell<Option<Rc<Home>>>,
}

/// One mesh connection, and the callee's connection behind it.
pub(super) struct Tie {
    pub(super) slot: Slot,
    pub(super) id: HeaderValue,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) port: u16,
    /// Dropping it resets the stream, and the callee lets go.
    _held: (Answering, SendStream),
}

impl Pin {
    /// From here on everything on this app connection belongs together.
    pub(super) fn bind(&self) {
        self.bound.set(true);
    }

    pub(super) fn is_bound(&self) -> bool {
        self.bound.get()
    }

    pub(super) fn tie(&self) -> Option<Rc<Tie>> {
        self.tie.borrow().clone()
    }

    pub(super) fn forget(&self) {
        *self.tie.borrow_mut() = None;
    }

    pub(super) fn make(&self, slot: Slot, endpoint: &Arc<Endpoint>, port: u16) -> Result<Rc<Tie>, StreamError> {
        let text = format!("{:016x}", rand::random::<u64>());
        let id = HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("0"));
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from_static("http://isthmus/");
        request.headers_mut().insert(PIN, id.clone());
        request.extensions_mut().insert(Protocol::from_static(PIN_PROTOCOL));
        let held = slot.send_request(request, false)?;
        let tie = Rc::new(Tie { slot, id, endpoint: Arc::clone(endpoint), port, _held: held });
        *self.tie.borrow_mut() = Some(Rc::clone(&tie));
        Ok(tie)
    }

    pub(super) fn plain(&self, make: impl FnOnce() -> Rc<Home>) -> Rc<Home> {
        Rc::clone(self.plain.borrow_mut().get_or_insert_with(make))
    }
}
