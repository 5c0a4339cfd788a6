//! The gate in front of every service of the operators' port. Refused here: calls without an operator's certificate, of a
//! certificate that has ended or was revoked since the handshake, of an operator without the role that the [`needs`]
//! table asks for, and calls that the table does not know.

use super::needs::{self, Need};
use super::rights::{self, Rights};
use super::{Caller, Who};
use crate::ledger::Ledger;
use crate::serve::Peer;
use futures::future::{Either, Ready, ready};
use isthmus_certs::{Clock, PeerIdentity};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tower::{Layer, Service};

#[derive(Clone)]
pub struct Gatekeeper {
    pub ledger: Arc<Ledger>,
}

impl<S> Layer<S> for Gatekeeper {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { keeper: self.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Guarded<S> {
    keeper: Gatekeeper,
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Guarded<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        match self.keeper.admit(request.uri().path(), peer) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(status) => {
                tracing::info!(path = request.uri().path(), reason = status.message(), "operator refused");
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

impl Gatekeeper {
    fn admit(&self, path: &str, peer: Option<&Peer>) -> Result<Caller, Status> {
        let need = needs::of(path).ok_or_else(|| Status::unimplemented(format!("{path} is no call of this port")))?;
        let Some(peer) = peer.and_then(|peer| peer.identity.as_ref()) else {
            return Err(Status::unauthenticated("this call needs an operator's certificate: `isthmus login`"));
        };
        let who = self.who(peer)?;
        let world = self.ledger.world();
        let rights = Arc::new(Rights::of(&world, &who));
        if let Some(role) = missing(need, &rights) {
            let call = path.rsplit('/').next().unwrap_or(path);
            return Err(rights::refusal(&world, &who.name, &format!("call {call}"), role));
        }
        Ok(Caller { who, id: peer.id.clone(), serial: peer.serial.to_string(), rights, world })
    }

    /// The handshake asked the same; asking again ends a connection whose certificate has ended or was revoked since.
    fn who(&self, peer: &PeerIdentity) -> Result<Who, Status> {
        let trust = self.ledger.trust();
        if trust.revocations.cover(peer) {
            return Err(Status::permission_denied(format!("the certificate of {} was revoked", peer.id)));
        }
        if peer.not_after < self.ledger.clock().now() {
            return Err(Status::unauthenticated(format!("the certificate of {} has ended: `isthmus login`", peer.id)));
        }
        match peer.id.operator_name().filter(|_| *peer.id.trust_domain() == trust.trust_domain) {
            Some(name) => Ok(Who { name: name.to_string(), groups: BTreeSet::new(), robot: None }),
            None => Err(Status::permission_denied(format!("{} is not an operator", peer.id))),
        }
    }
}

/// The role that is missing for a call, if one is.
fn missing(need: Need, rights: &Rights) -> Option<&'static str> {
    match need {
        Need::View | Need::Change | Need::AdminToChange if !rights.any() => Some("viewer"),
        Need::ViewAll if !rights.sees_all() => Some("viewer of the whole mesh"),
        Need::Edit if rights.edit == rights::Reach::Nothing => Some("policy-editor"),
        Need::Admin if !rights.admin => Some("admin"),
        _ => None,
    }
}
