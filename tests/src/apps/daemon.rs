//! A server program of the machine, as it is: started in a host with a directory of its own, known to listen before
//! anybody calls it, ended with this value. What it is told is in the caller's words: its own configuration language.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::command::Command;
use crate::error::Error;
use crate::host::Host;
use crate::process::Process;

/// The slowest of them makes a database first.
const START: Duration = Duration::from_secs(20);
/// Between two looks at a port that does not listen yet.
const LOOK: Duration = Duration::from_millis(20);

/// A running server program. Dropping it kills it with its process group.
pub struct Daemon {
    process: Process,
    directory: TempDir,
}

impl Daemon {
    /// Starts what `command` makes of the directory, and waits until somebody listens on `port`.
    ///
    /// # Errors
    /// When it is not installed, ends, or does not listen in time; with its last lines.
    pub fn start(
        host: &Host,
        port: u16,
        command: impl FnOnce(&Path) -> Result<Command, Error>,
    ) -> Result<Daemon, Error> {
        let directory = TempDir::with_prefix("isthmus-daemon-")
            .map_err(|error| Error::system("making a directory for a server", error))?;
        let command = command(directory.path())?;
        let mut daemon = Daemon { process: host.spawn(command)?, directory };
        daemon.wait_until_it_listens(host, port)?;
        Ok(daemon)
    }

    /// nginx with this configuration. `@DIR@` in it is its directory, which has `files` and what nginx wants for itself.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn nginx(host: &Host, port: u16, configuration: &str) -> Result<Daemon, Error> {
        Daemon::start(host, port, |directory| {
            fs::create_dir(directory.join("files")).map_err(|e| Error::system("making nginx's directory", e))?;
            let file = write_configuration(directory, "nginx.conf", configuration)?;
            let arguments = ["-p".as_ref(), directory.as_os_str(), "-c".as_ref(), file.as_os_str()];
            Ok(Command::new("nginx").args(arguments).args(["-e", "stderr"]))
        })
    }

    /// HAProxy with this configuration, one process in the foreground.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn haproxy(host: &Host, port: u16, configuration: &str) -> Result<Daemon, Error> {
        Daemon::start(host, port, |directory| {
            let file = write_configuration(directory, "haproxy.cfg", configuration)?;
            Ok(Command::new("haproxy").args(["-db".as_ref(), "-f".as_ref(), file.as_os_str()]))
        })
    }

    /// Apache with this configuration, one process.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn apache(host: &Host, port: u16, configuration: &str) -> Result<Daemon, Error> {
        Daemon::start(host, port, |directory| {
            let file = write_configuration(directory, "apache.conf", configuration)?;
            Ok(Command::new("apache2").args(["-X".as_ref(), "-f".as_ref(), file.as_os_str()]))
        })
    }

    /// nghttpd in plain, which serves the files of its directory.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn nghttpd(host: &Host, port: u16, arguments: &[&str], files: &[(&str, &[u8])]) -> Result<Daemon, Error> {
        Daemon::start(host, port, |directory| {
            for (name, bytes) in files {
                fs::write(directory.join(name), bytes).map_err(|e| Error::system(format!("writing {name}"), e))?;
            }
            let command = Command::new("nghttpd").args(["--no-tls", "--verbose", "--htdocs"]).arg(directory);
            Ok(command.args(arguments).arg(port.to_string()))
        })
    }

    /// Redis without persistence and without a password.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn redis(host: &Host, port: u16) -> Result<Daemon, Error> {
        Daemon::start(host, port, |directory| {
            let command = Command::new("redis-server").args(["--port", &port.to_string(), "--bind", "0.0.0.0", "::"]);
            Ok(command.args(["--protected-mode", "no", "--save", "", "--dir"]).arg(directory))
        })
    }

    /// MariaDB with an empty data directory, and without its privilege tables: anybody may do anything.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn mariadb(host: &Host, port: u16) -> Result<Daemon, Error> {
        Daemon::start(host, port, |directory| {
            let data = directory.join("data");
            fs::create_dir(&data).map_err(|e| Error::system("making MariaDB's directory", e))?;
            let path = |option: &str, name: &str| format!("--{option}={}", directory.join(name).display());
            let command = Command::new("mariadbd").args(["--no-defaults", "--user=root", "--skip-grant-tables"]);
            // Without a grant table it would not listen to the network; told so after that option, it does.
            let command = command.args(["--skip-networking=0", "--bind-address=*", "--skip-name-resolve"]);
            let command = command.args(["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0"]);
            let command = command.args(["--innodb-buffer-pool-size=16M", "--performance-schema=OFF"]);
            let command = command.args([path("datadir", "data"), path("socket", "socket"), path("pid-file", "pid")]);
            Ok(command.arg(format!("--port={port}")))
        })
    }

    /// Its process, for logs.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its directory, removed with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn wait_until_it_listens(&mut self, host: &Host, port: u16) -> Result<(), Error> {
        let until = Instant::now() + START;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while host.run(move || TcpStream::connect(loopback)).is_err() {
            if !self.process.is_running() || Instant::now() > until {
                let what = format!("port {port} of {}", self.process.label());
                return Err(Error::Deadline { what, after: START, detail: self.process.last_lines() });
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }
}

fn write_configuration(directory: &Path, name: &str, text: &str) -> Result<std::path::PathBuf, Error> {
    let file = directory.join(name);
    let text = text.replace("@DIR@", &directory.display().to_string());
    fs::write(&file, text).map_err(|error| Error::system(format!("writing {name}"), error))?;
    Ok(file)
}
