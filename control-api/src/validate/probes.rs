//! Reads what a ServicePolicy says of traffic that has no sidecar and cannot get one: probes of the platform, and browsers
//! that begin in plain.

use super::field::Field;
use super::resource::{Probe, Probing};
use super::service_policy::host;

pub(super) fn read(spec: &Field) -> Vec<Probe> {
    let Some(field) = spec.get("probes") else { return Vec::new() };
    if field.is_empty_list() {
        field.fault("is an empty list; leave it out");
    }
    field.items().iter().filter_map(probe).collect()
}

/// `{ port: 8080, path: /healthz }`, `{ port: 9000, grpc: true }` or `{ port: 5432, connect: true }`.
fn probe(field: &Field) -> Option<Probe> {
    field.only(&["port", "path", "grpc", "connect"], &[]);
    let port = field.need("port").and_then(|f| f.port());
    let asked: Vec<&str> = ["path", "grpc", "connect"].into_iter().filter(|name| field.get(name).is_some()).collect();
    let [what] = asked.as_slice() else {
        field.fault("is of one kind: write `path`, `grpc: true` or `connect: true`");
        return None;
    };
    let value = field.get(what)?;
    let what = match *what {
        "path" => Probing::Path(path(&value)?),
        name => {
            if !value.flag()? {
                value.fault(format!("`{name}: false` asks for nothing; leave the probe out"));
                return None;
            }
            if name == "grpc" { Probing::Grpc } else { Probing::Connect }
        }
    };
    Some(Probe { port: port?, what })
}

/// Compared byte by byte with what was asked for, so that there is no second way to write it.
fn path(field: &Field) -> Option<String> {
    let text = field.word()?;
    let plain = |b: u8| b.is_ascii_graphic() && !b"?#%*{}\\".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        field.fault(format!("`{text}` is not one exact path, as `/healthz`: no pattern, no query, nothing encoded"));
        return None;
    }
    Some(text.to_string())
}

/// `{ host: orders.example, port: 8443 }`.
pub(super) fn redirect(field: &Field) -> Option<String> {
    field.only(&["host", "port"], &[]);
    let name = field.need("host")?;
    let named = host(&name)?;
    if named.starts_with("*.") {
        name.fault(format!("`{named}` is not one host; a redirect goes to one"));
        return None;
    }
    match field.get("port").and_then(|f| f.port()) {
        Some(443) | None => Some(named),
        Some(port) => Some(format!("{named}:{port}")),
    }
}
