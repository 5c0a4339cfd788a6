//! The admin socket: who may connect may see everything but secrets, set the log level, and have the certificate renewed.

use std::io;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use isthmus_certs::IdentityStore;
use rustix::fs::{Mode, fchmod};
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use crate::config::Config;
use crate::flows::Decisions;
use crate::state::State;
use crate::state::standing::Standing;

use super::dump;
use super::readiness::Readiness;
use super::serve::{Answer, page, text};
use super::status::{self, CaptureNow};

/// Sets the log's level; the error says what is wrong with it.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the pages are made of.
pub struct Admin {
    pub config: Config,
    pub state: Arc<State>,
    pub identities: Arc<IdentityStore>,
    pub renew_now: Arc<Notify>,
    pub standing: Arc<Standing>,
    pub readiness: Arc<Readiness>,
    pub decisions: Arc<Decisions>,
    pub set_log_level: Option<SetLogLevel>,
}

impl Admin {
    /// One request. `captured_by`: how traffic is captured, if it is.
    pub fn answer(&self, request: &Request<Incoming>, captured_by: Option<&'static str>) -> Answer {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::PUT | &Method::POST, "/log") => self.log_level(request.uri().query().unwrap_or_default()),
            (&Method::PUT | &Method::POST, "/renew") => self.renew(),
            (&Method::GET | &Method::HEAD, "/config_dump") => json(dump::config(&self.config, &self.state.snapshot())),
            (&Method::GET | &Method::HEAD, "/status") => self.status(captured_by),
            (&Method::GET | &Method::HEAD, "/certs") => json(dump::certs(&self.identities)),
            (&Method::GET | &Method::HEAD, "/decisions") => json(dump::decisions(&self.decisions)),
            (&Method::GET | &Method::HEAD, _) => match path.strip_prefix("/decisions/") {
                Some(id) => self.decision(id),
                None => text(
                    StatusCode::NOT_FOUND,
                    "there are /config_dump /status /certs /decisions /decisions/<id> /log?level=<level> /renew\n",
                ),
            },
            _ => text(
                StatusCode::METHOD_NOT_ALLOWED,
                "all pages are read with GET; /log?level=<level> and /renew are asked for with PUT\n",
            ),
        }
    }

    fn status(&self, in_force: Option<&'static str>) -> Answer {
        let capture = CaptureNow { configured: dump::mode(self.config.capture.mode), in_force };
        json(status::page(&self.standing, &self.readiness, &self.identities, &self.state, &capture))
    }

    /// One at a time: asked for again while one is under way, another follows it.
    fn renew(&self) -> Answer {
        self.renew_now.notify_one();
        text(StatusCode::ACCEPTED, "a new certificate was asked for: see /certs\n")
    }

    fn decision(&self, id: &str) -> Answer {
        let record = self.decisions.get(id).and_then(|record| serde_json::to_value(record).ok());
        record.map_or_else(
            || {
                text(
                    StatusCode::NOT_FOUND,
                    "no such decision here: the last 1000 are kept, by the proxy that took them\n",
                )
            },
            json,
        )
    }

    fn log_level(&self, query: &str) -> Answer {
        let Some(set) = &self.set_log_level else {
            return text(StatusCode::NOT_IMPLEMENTED, "the program that runs this proxy keeps the log to itself\n");
        };
        let Some(level) = query.split('&').find_map(|pair| pair.strip_prefix("level=")) else {
            return text(StatusCode::BAD_REQUEST, "write /log?level=debug\n");
        };
        match set(level) {
            Ok(()) => text(StatusCode::OK, format!("{level}\n")),
            Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
        }
    }
}

fn json(value: Value) -> Answer {
    page(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

/// The admin socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the admin socket {}: {why}", path.display())]
pub struct SocketError {
    path: PathBuf,
    why: String,
}

/// The socket's file; gone when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
}

impl AdminSocket {
    /// Listens at `path`, mode 0600. What a dead proxy left there is removed, a living one's is not.
    ///
    /// # Errors
    /// With the reason and what to do.
    pub fn bind(path: &Path) -> Result<(AdminSocket, UnixListener), SocketError> {
        let error = |why: String| SocketError { path: path.to_owned(), why };
        if path.symlink_metadata().is_ok() {
            clear_stale(path).map_err(error)?;
        }
        let listener = bind_private(path).map_err(|cause| error(hint(&cause)))?;
        let listener = UnixListener::from_std(listener).map_err(|cause| error(cause.to_string()))?;
        Ok((AdminSocket { path: path.to_owned() }, listener))
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Best effort: a socket that stays is cleared by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn hint(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => format!("{cause}; make its directory, which the proxy's user owns"),
        io::ErrorKind::PermissionDenied => format!("{cause}; the proxy's user must own its directory"),
        _ => cause.to_string(),
    }
}

fn clear_stale(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = path.symlink_metadata().map_err(|error| error.to_string())?.file_type();
    if !kind.is_socket() {
        return Err("something that is no socket is there; remove it or choose another path".to_owned());
    }
    match StdStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| error.to_string())
        }
        _ => Err("another proxy answers there; give each its own path".to_owned()),
    }
}

fn bind_private(path: &Path) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before bind: Linux makes the file with the mode of the socket's own inode, so that it is never open to others.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(64)?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}
