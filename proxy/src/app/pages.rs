//! The control runtime's servers: metrics, readiness, the admin socket.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, AdminSocket, SetLogLevel, metrics_page, readiness_page, serve_tcp, serve_unix};
use crate::listen::{BindError, Bound};

use super::{Parts, RunError};

pub(super) struct Pages {
    serving: JoinSet<()>,
    _socket: Option<AdminSocket>,
}

impl Pages {
    pub(super) fn open(
        parts: &Arc<Parts>,
        metrics: Bound,
        readiness: Bound,
        set_log_level: Option<SetLogLevel>,
        stop: &CancellationToken,
    ) -> Result<Pages, RunError> {
        let mut serving = JoinSet::new();
        for listener in listeners("listen.metrics", metrics)? {
            let counters = parts.metrics.clone();
            let page = move |request: &_| metrics_page(request, &counters);
            serving.spawn(serve_tcp(listener, stop.child_token(), page));
        }
        for listener in listeners("listen.readiness", readiness)? {
            let readiness = parts.readiness.clone();
            let page = move |request: &_| readiness_page(request, &readiness);
            serving.spawn(serve_tcp(listener, stop.child_token(), page));
        }
        let mut socket = None;
        if let Some(path) = &parts.config.admin.socket {
            let (file, listener) = AdminSocket::bind(path)?;
            let admin = Admin {
                config: parts.config.clone(),
                state: parts.state.clone(),
                identities: parts.identities.clone(),
                renew_now: parts.renew_now.clone(),
                standing: parts.standing.clone(),
                readiness: parts.readiness.clone(),
                decisions: parts.decisions.clone(),
                set_log_level,
            };
            let shared = parts.clone();
            let page = move |request: &_| admin.answer(request, shared.captured_by.get().copied());
            serving.spawn(serve_unix(listener, stop.child_token(), page));
            socket = Some(file);
        }
        Ok(Pages { serving, _socket: socket })
    }

    /// Resolves when all have ended, after `stop`.
    pub(super) async fn ended(mut self) {
        while self.serving.join_next().await.is_some() {}
    }
}

fn listeners(what: &'static str, bound: Bound) -> Result<Vec<TcpListener>, BindError> {
    let address = bound.address;
    let register = |listener| TcpListener::from_std(listener).map_err(|error| BindError { address, what, error });
    bound.listeners.into_iter().map(register).collect()
}
