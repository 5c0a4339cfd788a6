//! What a port speaks, told from its `appProtocol`, its name or its number: the one table, for control plane and proxy.
//! `docs/protocols.md` shows it; a test holds the two together.
//!
//! A hint spares detection where detection would have to wait: a server that speaks first is never waited for.

use super::{AppProtocol, Connect};

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// As `appProtocol` or a port's name (`mysql`, `mysql-main`) spells it.
    pub words: &'static [&'static str],
    /// Used only where neither `appProtocol` nor the name says anything. Numbers stand here where detection would wait
    /// for a client that waits for the server, or where the first bytes could be taken for something else.
    pub ports: &'static [u16],
    pub protocol: AppProtocol,
    /// Confirm: the drivers of this protocol choose another host when they cannot connect, and only then.
    pub connect: Connect,
}

const fn hint(words: &'static [&'static str], ports: &'static [u16], protocol: AppProtocol, connect: Connect) -> Hint {
    Hint { words, ports, protocol, connect }
}

use AppProtocol::{Http, Http2, Postgres, ServerFirst, Tcp, Tls};
use Connect::{Confirm, Early};

/// The table.
pub const HINTS: &[Hint] = &[
    hint(&["http", "http1", "kubernetes.io/ws"], &[], Http, Early),
    hint(&["http2", "grpc", "h2c", "kubernetes.io/h2c"], &[], Http2, Early),
    hint(&["https", "tls", "kubernetes.io/wss"], &[443], Tls, Early),
    hint(&["smtps", "submissions", "imaps", "pop3s", "ldaps"], &[465, 636, 993, 995], Tls, Early),
    hint(&["tcp"], &[], Tcp, Early),
    hint(&["postgres", "postgresql"], &[5432], Postgres, Confirm),
    hint(&["mysql", "mariadb"], &[3306], ServerFirst, Confirm),
    hint(&["mssql", "sqlserver", "tds"], &[1433], Tcp, Confirm),
    hint(&["oracle", "tns"], &[1521], Tcp, Confirm),
    hint(&["redis", "valkey"], &[6379], Tcp, Early),
    hint(&["mongo", "mongodb"], &[27017], Tcp, Early),
    hint(&["kafka"], &[9092], Tcp, Early),
    hint(&["amqp"], &[5672], Tcp, Early),
    hint(&["cassandra"], &[9042], Tcp, Early),
    hint(&["memcached"], &[11211], Tcp, Early),
    hint(&["ldap"], &[389], Tcp, Early),
    hint(&["ssh", "sftp"], &[22], ServerFirst, Early),
    hint(&["smtp", "submission"], &[25, 587], ServerFirst, Early),
    hint(&["ftp"], &[21], ServerFirst, Early),
    hint(&["pop3"], &[110], ServerFirst, Early),
    hint(&["imap"], &[143], ServerFirst, Early),
    hint(&["nats"], &[4222], ServerFirst, Early),
    hint(&["rsync"], &[873], ServerFirst, Early),
];

/// Nobody says anything: the first bytes will.
const DETECT: Hint = hint(&[], &[], AppProtocol::Detect, Early);

/// What is declared wins, then the port's name (`http-api` counts as `http`), then the number. An `appProtocol` that
/// nobody knows means detection, whatever the name and number say: somebody meant something else by it.
pub fn hint_for(declared: Option<&str>, name: &str, port: u16) -> Hint {
    if let Some(declared) = declared {
        return by_word(declared).unwrap_or(DETECT);
    }
    let first = name.split('-').next().unwrap_or_default();
    // `tcp-mysql`, as Linkerd's and Istio's users write it, says more by its second word.
    let second = name.strip_prefix("tcp-").and_then(|rest| rest.split('-').next());
    second
        .and_then(by_word)
        .filter(|hint| matches!(hint.protocol, Tcp | ServerFirst | Postgres))
        .or_else(|| by_word(name))
        .or_else(|| by_word(first))
        .unwrap_or_else(|| by_port(port))
}

/// What stands for a port of which only the number is known.
pub fn by_port(port: u16) -> Hint {
    HINTS.iter().copied().find(|hint| hint.ports.contains(&port)).unwrap_or(DETECT)
}

fn by_word(word: &str) -> Option<Hint> {
    HINTS.iter().copied().find(|hint| hint.words.iter().any(|known| known.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
#[path = "hint_test.rs"]
mod hint_test;
