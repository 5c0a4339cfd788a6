//! nginx, as a user's app: it tells its caller what identity it was told, and counts its connections itself.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::raw::{self, Then};
use super::tls::SelfSigned;
use crate::command::Command;
use crate::error::Error;
use crate::find;
use crate::host::Host;
use crate::process::Process;

/// How long nginx may take to listen; it takes some 20 ms.
const START: Duration = Duration::from_secs(10);

/// A running nginx in a host.
pub struct Nginx {
    host: Host,
    status: SocketAddr,
    /// Our own questions are connections too, and are taken off again.
    asked: AtomicU64,
    process: Process,
}

impl Nginx {
    /// Plain HTTP on `http`, TLS 1.0 to 1.3 on `https`, and the counters on `status`, a port that the mesh leaves alone
    /// because it is asked over loopback. It answers JSON: `{"server","clientCertificate","traceparent","host","tls"}`.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(host: &Host, http: u16, https: u16, status: u16, certificate: &SelfSigned) -> Result<Self, Error> {
        let directory = host.files().join(format!("nginx-{http}"));
        fs::create_dir_all(&directory).map_err(|error| Error::system("making a directory for nginx", error))?;
        let (certificate, key) = certificate.write(&directory)?;
        let text = configuration(&directory, [http, https, status], &certificate, &key);
        let file = directory.join("nginx.conf");
        fs::write(&file, text).map_err(|error| Error::system("writing nginx.conf", error))?;
        let command = Command::new(find::required("nginx")?)
            .args(["-p".as_ref(), directory.as_os_str(), "-c".as_ref(), file.as_os_str()])
            .args(["-e", "stderr"]);
        let process = host.spawn(command)?;
        // With error_log at notice, this is the first line after the sockets listen.
        process.wait_for_line("its start", START, |line| line.contains("using the"))?;
        let status = SocketAddr::from(([127, 0, 0, 1], status));
        Ok(Self { host: host.clone(), status, asked: AtomicU64::new(0), process })
    }

    /// Connections it accepted so far, on both ports, by its own count.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn accepted(&self) -> Result<u64, Error> {
        self.counters().map(|[accepted, _]| accepted)
    }

    /// What reached it so far: connections accepted, and requests on them. A request on a connection that was there
    /// before moves the second only.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn counters(&self) -> Result<[u64; 2], Error> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let request = "GET / HTTP/1.0\r\n\r\n";
        let answer = raw::exchange(&self.host, self.status, request, Then::Read, START).text();
        // "server accepts handled requests\n 16630948 16630948 31070465"
        let numbers = answer.lines().skip_while(|line| !line.starts_with("server accepts")).nth(1);
        let mut numbers = numbers.unwrap_or_default().split_whitespace().map(str::parse::<u64>);
        // Accepted, handled, requests.
        let (Some(Ok(accepted)), _, Some(Ok(requests))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return Err(Error::Unexpected(format!("nginx's status page is {answer:?}")));
        };
        Ok([accepted, requests].map(|count| count.saturating_sub(asked)))
    }

    /// Its process, for logs and signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn configuration(directory: &Path, ports: [u16; 3], certificate: &Path, key: &Path) -> String {
    let [http, https, status] = ports;
    let (directory, certificate, key) = (directory.display(), certificate.display(), key.display());
    // `user root`: in a user namespace there is no other. One process: nobody is left behind when it is killed. SECLEVEL=0, so that TLS 1.1 is refused by the mesh or by
    // nobody.
    format!(
        r#"daemon off;
user root root;
master_process off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type application/json;
    keepalive_requests 1000000;
    server {{
        listen 0.0.0.0:{http} backlog=4096;
        listen [::]:{http} backlog=4096 ipv6only=on;
        listen 0.0.0.0:{https} ssl;
        listen [::]:{https} ssl ipv6only=on;
        ssl_early_data on;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
        ssl_ciphers DEFAULT@SECLEVEL=0;
        location / {{
            return 200 '{{"server":"nginx","clientCertificate":"$http_x_forwarded_client_cert","traceparent":"$http_traceparent","host":"$http_host","tls":"$ssl_protocol"}}\n';
        }}
    }}
    server {{
        listen 127.0.0.1:{status};
        location / {{ stub_status; }}
    }}
}}
"#
    )
}
