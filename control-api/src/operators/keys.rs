//! The Access service: who am I, and the tokens that let robots and persons in.

use super::access::{self, Record};
use super::session::{self, ROBOT};
use super::token;
use super::{Caller, FIRST, Reach, Scope, rights::Role};
use crate::audit::{Event, What};
use crate::identity::blocking;
use crate::identity::issuer::Issuer;
use crate::identity::tokens::unavailable;
use crate::ledger::Ledger;
use isthmus_certs::{JoinToken, RootFingerprint};
use isthmus_proto::admin::v1::access_server::Access;
use isthmus_proto::admin::v1::*;
use std::sync::Arc;
use tonic::{Request, Response, Status};

const INVITATION_S: u32 = 86_400;
const LONGEST_INVITATION_S: u32 = 7 * 86_400;
const ROBOT_S: u32 = 90 * 86_400;
const LONGEST_ROBOT_S: u32 = 366 * 86_400;
const LONGEST_NAME: usize = 50;

/// The service that is registered with tonic.
#[derive(Clone)]
pub struct Keys {
    pub ledger: Arc<Ledger>,
    pub issuer: Arc<Issuer>,
    /// `host:port` of the operators' port.
    pub address: String,
}

#[tonic::async_trait]
impl Access for Keys {
    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Result<Response<WhoAmIResponse>, Status> {
        let caller = caller(&request)?;
        let (store, serial) = (self.ledger.store().clone(), caller.serial.clone());
        let session = blocking(move || session::find(&*store, &serial).map_err(unavailable)).await?;
        Ok(Response::new(WhoAmIResponse {
            operator: caller.who.name.clone(),
            groups: caller.who.groups.iter().cloned().collect(),
            admin: caller.rights.admin,
            views: reach(&caller.rights.view),
            edits: reach(&caller.rights.edit),
            not_after_unix_ms: caller.not_after_unix_ms,
            display_name: session.map(|session| session.display_name).unwrap_or_default(),
        }))
    }

    async fn create_access_token(
        &self,
        request: Request<CreateAccessTokenRequest>,
    ) -> Result<Response<CreateAccessTokenResponse>, Status> {
        let caller = caller(&request)?;
        let this = self.clone();
        blocking(move || this.create_now(request.into_inner(), caller.name())).await.map(Response::new)
    }

    async fn list_access_tokens(
        &self,
        request: Request<ListAccessTokensRequest>,
    ) -> Result<Response<ListAccessTokensResponse>, Status> {
        caller(&request)?;
        let (store, now_ms) = (self.ledger.store().clone(), self.ledger.clock().now_ms());
        let records = blocking(move || access::list(&*store).map_err(unavailable)).await?;
        let tokens = records.iter().map(|record| shown(record, now_ms)).collect();
        Ok(Response::new(ListAccessTokensResponse { tokens }))
    }

    async fn revoke_access_token(
        &self,
        request: Request<RevokeAccessTokenRequest>,
    ) -> Result<Response<RevokeAccessTokenResponse>, Status> {
        let operator = caller(&request)?.who.name;
        let id = request.into_inner().id;
        let this = self.clone();
        let revoked = blocking(move || {
            let record = access::revoke(&**this.ledger.store(), &id)?;
            this.log(What::AccessRevoked, operator, &record)?;
            Ok(RevokeAccessTokenResponse {})
        });
        revoked.await.map(Response::new)
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("this call needs an operator's certificate"))
}

fn reach(reach: &Reach) -> Vec<String> {
    match reach {
        Reach::Nothing => Vec::new(),
        Reach::These(some) => some.iter().cloned().collect(),
        Reach::All => vec!["*".to_string()],
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::PolicyEditor => "policy-editor",
        Role::Admin => "admin",
    }
}

fn shown(record: &Record, now_ms: i64) -> AccessToken {
    AccessToken {
        id: record.id.clone(),
        operator: record.operator.clone(),
        role: record.scope.as_ref().map(|scope| role_word(scope.role).to_string()).unwrap_or_default(),
        namespaces: record.scope.as_ref().map(|scope| scope.namespaces.clone()).unwrap_or_default(),
        expires_unix_ms: record.expires_unix_ms,
        state: record.state(now_ms).to_string(),
        created_by: record.created_by.clone(),
        last_used_unix_ms: record.last_used_unix_ms,
    }
}

impl Keys {
    fn create_now(&self, request: CreateAccessTokenRequest, by: &str) -> Result<CreateAccessTokenResponse, Status> {
        let CreateAccessTokenRequest { name, role, namespaces, ttl_seconds } = request;
        let scope = scope(&role, namespaces)?;
        check_name(&name)?;
        let operator = if scope.is_some() { format!("{ROBOT}{name}") } else { name };
        let (usual, most) = match scope {
            Some(_) => (ROBOT_S, LONGEST_ROBOT_S),
            None => (INVITATION_S, LONGEST_INVITATION_S),
        };
        if ttl_seconds > most {
            return Err(Status::invalid_argument(format!("it lives at most {} days", most / 86_400)));
        }
        let ttl = if ttl_seconds == 0 { usual } else { ttl_seconds };
        let authorities = self.issuer.authorities();
        let root = RootFingerprint::of(authorities.own().root());
        let secret = JoinToken::generate(&self.address, authorities.trust_domain(), root)
            .map_err(|error| Status::internal(error.to_string()))?;
        let now_ms = self.ledger.clock().now_ms();
        let record = Record {
            id: secret.id.clone(),
            secret_sha256: String::new(),
            operator,
            scope,
            created_by: by.to_string(),
            expires_unix_ms: now_ms + i64::from(ttl) * 1000,
            revoked: false,
            last_used_unix_ms: 0,
        };
        // On record first: what lets somebody in is not made in silence.
        self.log(What::AccessCreated, by.to_string(), &record)?;
        access::create(&**self.ledger.store(), &secret, &record)?;
        tracing::info!(by, operator = record.operator, id = record.id, "access token created");
        Ok(CreateAccessTokenResponse {
            token: token::format(&secret).to_string(),
            created: Some(shown(&record, now_ms)),
        })
    }

    fn log(&self, what: What, operator: String, record: &Record) -> Result<(), Status> {
        let (kind, reason) = match &record.scope {
            Some(Scope { role, namespaces }) if namespaces.is_empty() => ("robot-token", role_word(*role).to_string()),
            Some(Scope { role, namespaces }) => {
                ("robot-token", format!("{} of {}", role_word(*role), namespaces.join(", ")))
            }
            None => ("invitation", String::new()),
        };
        let event = Event {
            what,
            who: record.operator.clone(),
            proof: format!("{kind} {}", record.id),
            operator,
            reason,
            ..Event::default()
        };
        let written = self.issuer.audit().append(event);
        written.map(drop).map_err(|error| Status::unavailable(error.to_string()))
    }
}

fn scope(role: &str, namespaces: Vec<String>) -> Result<Option<Scope>, Status> {
    let wrong = |what: &str| Status::invalid_argument(what.to_string());
    let role = match role {
        "" if namespaces.is_empty() => return Ok(None),
        "" => return Err(wrong("a person's namespaces are given by an OperatorRole, not by an invitation")),
        "viewer" => Role::Viewer,
        "policy-editor" if namespaces.is_empty() => {
            return Err(wrong("policy-editor is given by namespace; name at least one"));
        }
        "policy-editor" => Role::PolicyEditor,
        "admin" if namespaces.is_empty() => Role::Admin,
        "admin" => return Err(wrong("an admin is admin of the whole mesh; name no namespace")),
        _ => return Err(wrong("a role is viewer, policy-editor or admin")),
    };
    Ok(Some(Scope { role, namespaces }))
}

/// One label: a name with a dot in it is a robot's or a provider's.
fn check_name(name: &str) -> Result<(), Status> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name == FIRST {
        return Err(Status::invalid_argument(format!("`{FIRST}` is the first operator's name")));
    }
    if name.is_empty()
        || name.len() > LONGEST_NAME
        || !name.bytes().all(inner)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(Status::invalid_argument(format!("`{name}` is no name: 1 to {LONGEST_NAME} of a-z, 0-9 and `-`")));
    }
    Ok(())
}
