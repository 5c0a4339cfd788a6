//! `openssl s_client`: a third party's TLS at any version, also the ones that nobody should use any more.

use std::net::SocketAddr;
use std::time::Duration;

use crate::command::Command;
use crate::error::Error;
use crate::host::Host;

/// What came of a TLS connection.
#[derive(Debug, Clone)]
pub struct TlsAttempt {
    /// The version that both sides agreed on, as openssl writes it (`TLSv1.1`); `None`: no handshake.
    pub version: Option<String>,
    /// What the server answered to the request, when there was a handshake.
    pub answer: String,
    /// All that openssl said.
    pub log: String,
}

/// Connects with `openssl s_client` at one version (`-tls1_1`, `-tls1_2`, `-tls1_3`), sends `request`, reads the answer.
/// At security level 0, because otherwise openssl refuses TLS 1.1 by itself and the network is never asked.
///
/// # Errors
/// When openssl is not installed or outlives the deadline.
pub fn openssl_client(
    host: &Host,
    to: SocketAddr,
    server_name: &str,
    version: &str,
    request: &str,
    deadline: Duration,
) -> Result<TlsAttempt, Error> {
    let command = Command::new("openssl")
        .args(["s_client", "-connect", &to.to_string(), "-servername", server_name, version])
        .args(["-cipher", "DEFAULT@SECLEVEL=0", "-ign_eof"])
        .input(request);
    let finished = host.output(command, deadline)?;
    let log = format!("{}{}", finished.stdout, finished.stderr);
    // Without a handshake openssl still prints a version, but then no cipher: "New, (NONE), Cipher is (NONE)".
    let handshake = log.contains("Cipher is ") && !log.contains("Cipher is (NONE)");
    let version =
        log.lines().find_map(|line| line.trim().strip_prefix("Protocol")).map(|rest| rest.trim_matches([' ', ':']));
    let version = version.or_else(|| log.lines().find_map(|line| line.strip_prefix("New, ")?.split(',').next()));
    let answer = finished.stdout.find("HTTP/1.").map(|at| finished.stdout[at..].to_owned()).unwrap_or_default();
    Ok(TlsAttempt { version: version.filter(|_| handshake).map(str::to_owned), answer, log })
}
