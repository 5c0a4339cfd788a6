//! PostgreSQL: a protocol of its own, which speaks first only after it was asked, as L4 traffic.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::tls::SelfSigned;
use crate::command::Command;
use crate::error::Error;
use crate::find;
use crate::host::Host;
use crate::privilege::{Privilege, current};
use crate::process::{Finished, Process};

/// `nobody`: PostgreSQL refuses to run as root, and wants a user that has a name.
const USER: u32 = 65_534;

/// initdb takes some seconds on a slow disk.
const START: Duration = Duration::from_secs(60);

/// Who may connect without a password: everybody.
const ACCESS: &str = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";

/// What a server does otherwise than the plainest one.
#[derive(Default)]
pub struct PostgresSettings<'a> {
    /// Lines of `pg_hba.conf`; without them everybody may connect, without a password.
    pub access: Option<&'a str>,
    /// With it the server also speaks TLS.
    pub certificate: Option<&'a SelfSigned>,
    /// `name=value` of `postgresql.conf`.
    pub more: &'a [&'a str],
}

/// A running server with an empty database, gone with this value.
pub struct Postgres {
    process: Process,
    _directory: TempDir,
}

impl Postgres {
    /// Makes a database in a temporary directory and serves it on all addresses of `host`, without passwords.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(host: &Host, port: u16) -> Result<Self, Error> {
        Postgres::start_with(host, port, &PostgresSettings::default())
    }

    /// The same with settings.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with(host: &Host, port: u16, settings: &PostgresSettings<'_>) -> Result<Self, Error> {
        let (initdb, postgres) = (find::required("initdb")?, find::required("postgres")?);
        // Not among the host's files: those are root's own, and the server is not root.
        let directory = TempDir::with_prefix("isthmus-postgres-")
            .map_err(|error| Error::system("making a directory for PostgreSQL", error))?;
        if current() == Privilege::Root {
            std::os::unix::fs::chown(directory.path(), Some(USER), Some(USER))
                .map_err(|error| Error::system("giving the directory to PostgreSQL's user", error))?;
        }
        let data = directory.path().join("data");
        let made = host.output(
            as_user(Command::new(initdb), directory.path())
                .args(["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"])
                .arg(&data),
            START,
        )?;
        if !made.status.success() {
            return Err(Error::Unexpected(format!("initdb failed: {}{}", made.stdout, made.stderr)));
        }
        let command = as_user(Command::new(postgres), directory.path())
            .args(["-h", "*", "-p", &port.to_string(), "-c", "fsync=off", "-k"])
            .arg(directory.path())
            .arg("-D")
            .arg(&data);
        let process = host.spawn(with_settings(command, directory.path(), settings)?)?;
        process.wait_for_line("its readiness", START, |line| line.contains("ready to accept connections"))?;
        Ok(Self { process, _directory: directory })
    }

    /// Its process, for logs and signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Runs one statement with psql from `host`; rows are lines, columns are separated by `|`. `address` may be a name.
///
/// # Errors
/// When psql is not installed or outlives the deadline; what the server refuses is in the result.
pub fn psql(host: &Host, address: &str, port: u16, statement: &str, deadline: Duration) -> Result<Finished, Error> {
    let command = Command::new("psql")
        .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres"])
        .args(["-h", address, "-p", &port.to_string(), "-c", statement])
        .env("PGCONNECT_TIMEOUT", deadline.as_secs().max(2).to_string())
        .env("PGSSLMODE", "disable");
    host.output(command, deadline)
}

fn with_settings(mut command: Command, directory: &Path, settings: &PostgresSettings<'_>) -> Result<Command, Error> {
    let access = directory.join("hba.conf");
    std::fs::write(&access, settings.access.unwrap_or(ACCESS))
        .map_err(|error| Error::system("writing PostgreSQL's access rules", error))?;
    command = command.arg("-c").arg(format!("hba_file={}", access.display()));
    if let Some(certificate) = settings.certificate {
        let (certificate, key) = certificate.write(directory)?;
        if current() == Privilege::Root {
            // It takes no key that others could read, nor one that is not its own.
            for file in [&certificate, &key] {
                std::os::unix::fs::chown(file, Some(USER), Some(USER))
                    .map_err(|error| Error::system("giving the key to PostgreSQL's user", error))?;
            }
        }
        command = command.args(["-c", "ssl=on", "-c"]).arg(format!("ssl_cert_file={}", certificate.display()));
        command = command.arg("-c").arg(format!("ssl_key_file={}", key.display()));
    }
    Ok(settings.more.iter().fold(command, |command, setting| command.args(["-c", setting])))
}

fn as_user(command: Command, directory: &Path) -> Command {
    command.user(USER).directory(directory).env("HOME", directory).env("LC_ALL", "C")
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown: its children go with it, and its shared memory.
        let _ = self.process.signal(rustix::process::Signal::QUIT);
        let _ = self.process.wait(Duration::from_secs(5));
    }
}
