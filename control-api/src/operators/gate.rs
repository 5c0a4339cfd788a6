//! The gate in front of every service of the operators' port. Refused here: calls without an operator's certificate, of a
//! certificate that has ended or was revoked since the handshake, of an operator without the role that the [`needs`]
//! table asks for, and calls that the table does not know.

use super::needs::{self, Need};
use super::rights::{self, Rights};
use super::{Caller, Who, session};
use crate::identity::blocking;
use crate::ledger::Ledger;
use crate::serve::Peer;
use isthmus_certs::{Clock, PeerIdentity};
use std::collections::BTreeSet;
use std::pin::Pin;
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
    S: Service<http::Request<B>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // The one that was polled ready answers; its clone waits for the next call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let keeper = self.keeper.clone();
        Box::pin(async move {
            let peer = request.extensions().get::<Peer>().cloned();
            match keeper.admit(request.uri().path(), peer).await {
                Ok(caller) => {
                    if let Some(caller) = caller {
                        request.extensions_mut().insert(caller);
                    }
                    inner.call(request).await
                }
                Err(status) => {
                    tracing::info!(path = request.uri().path(), reason = status.message(), "operator refused");
                    Ok(status.into_http())
                }
            }
        })
    }
}

impl Gatekeeper {
    /// Who asks; nobody, where nobody needs to be known.
    async fn admit(&self, path: &str, peer: Option<Peer>) -> Result<Option<Caller>, Status> {
        let need = needs::of(path).ok_or_else(|| Status::unimplemented(format!("{path} is no call of this port")))?;
        if need == Need::Nothing {
            return Ok(None);
        }
        let Some(peer) = peer.and_then(|peer| peer.identity) else {
            return Err(Status::unauthenticated("this call needs an operator's certificate: `isthmus login`"));
        };
        let who = self.who(&peer).await?;
        let world = self.ledger.world();
        let rights = Arc::new(Rights::of(&world, &who));
        if let Some(role) = missing(need, &rights) {
            let call = path.rsplit('/').next().unwrap_or(path);
            return Err(rights::refusal(&world, &who.name, &format!("call {call}"), role));
        }
        let (id, serial) = (peer.id.clone(), peer.serial.to_string());
        let not_after_unix_ms = i64::try_from(peer.not_after.as_secs()).unwrap_or(i64::MAX / 1000) * 1000;
        Ok(Some(Caller { who, id, serial, not_after_unix_ms, rights, world }))
    }

    /// The handshake asked the same; asking again ends a connection whose certificate has ended or was revoked since.
    async fn who(&self, peer: &PeerIdentity) -> Result<Who, Status> {
        let trust = self.ledger.trust();
        if trust.revocations.cover(peer) {
            return Err(Status::permission_denied(format!("the certificate of {} was revoked", peer.id)));
        }
        if peer.not_after < self.ledger.clock().now() {
            return Err(Status::unauthenticated(format!("the certificate of {} has ended: `isthmus login`", peer.id)));
        }
        let Some(name) = peer.id.operator_name().filter(|_| *peer.id.trust_domain() == trust.trust_domain) else {
            return Err(Status::permission_denied(format!("{} is not an operator", peer.id)));
        };
        if !session::needed(name) {
            return Ok(Who { name: name.to_string(), groups: BTreeSet::new(), robot: None });
        }
        let (name, serial, ledger) = (name.to_string(), peer.serial.to_string(), self.ledger.clone());
        blocking(move || session::who(&**ledger.store(), &name, &serial, &**ledger.clock())).await
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
