//! How the app's readiness is asked: one of four ways, how often, and what it takes to believe it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::error::Problem;
use super::field::{Count, Field, FromScalar, take, take_optional};

/// What is asked of the app. Absent: nothing, and it is ready while its sidecar is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    pub ask: Ask,
    /// Default: 5 s.
    pub interval: Duration,
    /// Default: 2 s.
    pub timeout: Duration,
    /// Default: 3.
    pub failures: u32,
    /// Default: 1.
    pub successes: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    Tcp(SocketAddr),
    Http {
        at: SocketAddr,
        path: String,
    },
    Grpc {
        at: SocketAddr,
        service: String,
    },
    /// Program and arguments; no shell.
    Command {
        program: PathBuf,
        arguments: Vec<String>,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ReadinessFile {
    tcp: Option<PlaceFile>,
    http: Option<PlaceFile>,
    grpc: Option<PlaceFile>,
    command: Option<Vec<String>>,
    interval: Field<Duration>,
    timeout: Field<Duration>,
    failures: Field<Count>,
    successes: Field<Count>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct PlaceFile {
    port: Field<u16>,
    address: Field<Address>,
    /// With http.
    path: Option<String>,
    /// With grpc.
    service: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Address(IpAddr);

impl FromScalar for Address {
    fn from_scalar(text: &str) -> Result<Self, String> {
        text.parse().map(Address).map_err(|_| format!("{text:?} is no IP address of this host"))
    }
}

impl ReadinessFile {
    pub(super) fn check(self, problems: &mut Vec<Problem>) -> Option<Readiness> {
        let mut wrong = |field: &str, message: &str| {
            let (field, message) = (format!("readiness{field}"), message.to_owned());
            problems.push(Problem { at: None, field, message });
        };
        if let Some(path) = self.http.as_ref().and_then(|http| http.path.as_ref())
            && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            wrong(".http.path", "begins with / and has no blanks");
        }
        for (name, place, path, service) in
            [("tcp", &self.tcp, false, false), ("http", &self.http, true, false), ("grpc", &self.grpc, false, true)]
        {
            let Some(place) = place else { continue };
            if place.port.is_none() {
                wrong(&format!(".{name}.port"), "is missing");
            }
            if (place.path.is_some() && !path) || (place.service.is_some() && !service) {
                wrong(&format!(".{name}"), "path goes with http, service with grpc");
            }
        }
        let program = self.command.as_ref().and_then(|command| command.first());
        if self.command.is_some() && !program.is_some_and(|program| program.starts_with('/')) {
            wrong(".command", "begins with the full path of a program; there is no shell");
        }
        let ways = [self.tcp.is_some(), self.http.is_some(), self.grpc.is_some(), self.command.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            wrong("", "name one of tcp, http, grpc and command");
        }
        let interval = take(self.interval, "readiness.interval", || Duration::from_secs(5), problems);
        let timeout = take(self.timeout, "readiness.timeout", || Duration::from_secs(2), problems);
        if interval < Duration::from_millis(100) || timeout.is_zero() {
            let message = "at least 100ms between two questions, and some time to answer".to_owned();
            problems.push(Problem { at: None, field: "readiness.interval".to_owned(), message });
        }
        let count = |field, name, default, problems: &mut Vec<Problem>| {
            let count = take(field, name, || Count(default), problems).0;
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let failures = count(self.failures, "readiness.failures", 3, problems);
        let successes = count(self.successes, "readiness.successes", 1, problems);
        let ask = if let Some(place) = self.tcp {
            Ask::Tcp(place.at("readiness.tcp", problems)?)
        } else if let Some(mut place) = self.http {
            let path = place.path.take().unwrap_or_else(|| "/".to_owned());
            Ask::Http { at: place.at("readiness.http", problems)?, path }
        } else if let Some(mut place) = self.grpc {
            let service = place.service.take().unwrap_or_default();
            Ask::Grpc { at: place.at("readiness.grpc", problems)?, service }
        } else {
            let mut command = self.command?.into_iter();
            Ask::Command { program: command.next()?.into(), arguments: command.collect() }
        };
        Some(Readiness { ask, interval, timeout, failures, successes })
    }
}

impl PlaceFile {
    fn at(self, name: &str, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
        let here = || Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
        let address = take(self.address, &format!("{name}.address"), here, problems).0;
        let port = take_optional(self.port, &format!("{name}.port"), problems)?;
        Some(SocketAddr::new(address, port))
    }
}
