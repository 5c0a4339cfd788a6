//! The mesh of the demo, with one more service on `orders` that has a port for every program of this suite.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use isthmus_world::apps::raw::{self, End, Then};
use isthmus_world::apps::{self, Daemon, Postgres, PostgresSettings, SelfSigned, Sshd};
use isthmus_world::mesh::{Mesh, Options};
use isthmus_world::{Command, Finished, Host};
use tempfile::TempDir;

pub(crate) const NAME: &str = "peers.shop.svc.cluster.local";
pub(crate) const VIP: &str = "10.96.0.40";
pub(crate) const VIP_V6: &str = "fd00:96::40";
/// For whatever one program does; none of them needs a tenth of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Service port, the program's port, the port's name, and `appProtocol`. A port without a word that says what it
/// speaks has to be detected.
const PORTS: &[(u16, u16, &str, &str)] = &[
    (8180, 8180, "nginx", "http"),
    (8181, 8180, "plain", ""),
    (8182, 8182, "nginx-h2c", "kubernetes.io/h2c"),
    (8183, 8183, "nginx-tls", "https"),
    (8185, 8185, "tls-old", ""),
    (8190, 8190, "http-haproxy", ""),
    (8191, 8191, "http2-haproxy", ""),
    (8200, 8200, "nghttpd", "kubernetes.io/h2c"),
    (8210, 8210, "http-python", ""),
    (8220, 8220, "socket", "kubernetes.io/ws"),
    (8230, 8230, "http-proxy", ""),
    (8240, 8240, "socket-h2", "kubernetes.io/h2c"),
    (8300, 8300, "grpc", ""),
    (8301, 8301, "grpc-aging", ""),
    (5432, 5432, "postgres", ""),
    (5433, 5433, "postgres-standby", "postgresql"),
    (5434, 5434, "postgres-gone", "postgresql"),
    (5435, 5432, "database", ""),
    (6379, 6379, "tcp-redis", ""),
    (6380, 6379, "cache", ""),
    (3306, 3306, "db", ""),
    (3307, 3306, "mysql", ""),
    (3308, 3306, "legacy", ""),
    (2222, 2222, "ssh", ""),
    (2223, 2222, "remote", ""),
    (2525, 2525, "mail", "smtp"),
    (1433, 1433, "sql", ""),
    (7000, 7000, "tcp-echo", ""),
];

const NGINX: &str = include_str!("programs/nginx.conf");
const HAPROXY: &str = include_str!("programs/haproxy.cfg");
const HAPROXY_WEBSOCKET: &str = include_str!("programs/haproxy_websocket.cfg");
const APACHE: &str = include_str!("programs/apache.conf");
const HTTP1_APP: &str = include_str!("programs/http1_app.py");

type Kept<T> = OnceLock<Result<T, String>>;

/// A mesh, and the programs on `orders` that were asked for so far.
pub(crate) struct Shop {
    // Dropped in this order: the programs before the namespaces they live in.
    nginx: Kept<Daemon>,
    haproxy: Kept<Daemon>,
    haproxy_websocket: Kept<Daemon>,
    apache: Kept<Daemon>,
    nghttpd: Kept<Daemon>,
    http1_app: Kept<Daemon>,
    redis: Kept<Daemon>,
    mariadb: Kept<Daemon>,
    sshd: Kept<Sshd>,
    grpc: Kept<Daemon>,
    aging_grpc: Kept<Daemon>,
    websocket: Kept<Daemon>,
    postgres: Kept<Postgres>,
    standby: Kept<Postgres>,
    mesh: Mesh,
    files: TempDir,
}

impl Shop {
    pub(crate) fn start() -> Result<Shop, String> {
        let binary = env!("CARGO_BIN_EXE_isthmus").into();
        let options = Options { binary, built_in_only: true, timed: false, round_trip: Duration::from_millis(4) };
        let mesh = Mesh::start(&options, &mut |_| ())?;
        mesh.apply(&resources())?;
        let addresses = [VIP, VIP_V6].map(|ip| (ip.parse::<IpAddr>().expect("an address"), NAME));
        for host in ["web", "batch", "orders"] {
            mesh.world().host(host).set_hosts(&addresses).map_err(|e| e.to_string())?;
        }
        let files = TempDir::with_prefix("isthmus-peers-").map_err(|e| e.to_string())?;
        Ok(Shop {
            nginx: Kept::new(),
            haproxy: Kept::new(),
            haproxy_websocket: Kept::new(),
            apache: Kept::new(),
            nghttpd: Kept::new(),
            http1_app: Kept::new(),
            redis: Kept::new(),
            mariadb: Kept::new(),
            sshd: Kept::new(),
            grpc: Kept::new(),
            aging_grpc: Kept::new(),
            websocket: Kept::new(),
            postgres: Kept::new(),
            standby: Kept::new(),
            mesh,
            files,
        })
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.mesh.world().host(name)
    }

    /// A file that is gone with the mesh.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Runs a program on `from` to its end.
    pub(crate) fn output(&self, from: &str, command: Command) -> Result<Finished, String> {
        self.host(from).output(command, DEADLINE).map_err(|e| e.to_string())
    }

    /// The same, and it must succeed; returns its standard output.
    pub(crate) fn succeed(&self, from: &str, command: Command) -> Result<String, String> {
        let done = self.output(from, command.clone())?;
        match done.status.success() {
            true => Ok(done.stdout),
            false => {
                let first = done.stderr.lines().next().unwrap_or_default();
                Err(format!("{first}\n{command:?} on {from}: {}\n{}{}", done.status, done.stdout, done.stderr))
            }
        }
    }

    /// Does something, and demands that at least so many requests or tunnels came to `orders` on a mesh connection.
    pub(crate) fn crossing<T>(&self, at_least: u32, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let came = || self.mesh.metric("orders", "isthmus_streams_opened_total", &[("side", "server")]);
        let before = came()?;
        let result = work()?;
        match came()? - before {
            more if more >= f64::from(at_least) => Ok(result),
            more => Err(format!("{more} requests or tunnels came through the mesh, and not {at_least} or more")),
        }
    }

    /// Does something that `orders` must refuse because nobody allowed it.
    pub(crate) fn refusing<T>(&self, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let refused = || self.mesh.metric("orders", "isthmus_refused_total", &[("reason", "not-allowed")]);
        let before = refused()?;
        let result = work()?;
        match refused()? > before {
            true => Ok(result),
            false => Err("orders counts no refusal for not-allowed".to_owned()),
        }
    }

    /// `batch`, which nobody allowed, gets not one byte on this port.
    pub(crate) fn refuses_batch(&self, port: u16, hello: &[u8]) -> Result<(), String> {
        let to = SocketAddr::new(VIP.parse().expect("an address"), port);
        let exchange = || Ok(raw::exchange(self.host("batch"), to, hello, Then::Read, DEADLINE));
        let answer = self.refusing(exchange)?;
        match answer.bytes.is_empty() && answer.end == End::Reset {
            true => Ok(()),
            false => Err(format!("batch on port {port} got {:?} and then {:?}", answer.text(), answer.end)),
        }
    }

    /// Does something while a TrafficPolicy of the service says `option`; then it says `usual` again.
    pub(crate) fn with_traffic_policy<T>(
        &self,
        option: &str,
        usual: &str,
        work: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let policy = |says: &str| {
            format!(
                "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrafficPolicy\nmetadata:\n  namespace: shop\n  \
                 name: peers\nspec:\n  services: [peers]\n  {says}\n"
            )
        };
        self.mesh.apply(&policy(option))?;
        let result = work();
        self.mesh.apply(&policy(usual))?;
        result
    }

    /// The ends of the sidecars' logs, for messages.
    pub(crate) fn logs(&self) -> String {
        let end = |workload: &str| {
            let log = self.mesh.sidecar(workload).log();
            let lines = log[log.len().saturating_sub(3)..].iter();
            let short: String =
                lines.map(|line| format!("\n  {}", line.chars().take(200).collect::<String>())).collect();
            format!("sidecar of {workload}: …{short}\n")
        };
        end("web") + &end("orders")
    }

    fn keep<'a, T>(
        &self,
        kept: &'a Kept<T>,
        start: impl FnOnce(&Host) -> Result<T, isthmus_world::Error>,
    ) -> Result<&'a T, String> {
        kept.get_or_init(|| start(self.host("orders")).map_err(|e| e.to_string())).as_ref().map_err(Clone::clone)
    }

    pub(crate) fn nginx(&self) -> Result<&Daemon, String> {
        self.keep(&self.nginx, |host| {
            let (certificate, key) = SelfSigned::new(&[NAME, "other.test"])?.write(self.files.path())?;
            let configuration = NGINX
                .replace("@CERTIFICATE@", &certificate.display().to_string())
                .replace("@KEY@", &key.display().to_string());
            Daemon::nginx(host, 8180, &configuration)
        })
    }

    pub(crate) fn haproxy(&self) -> Result<&Daemon, String> {
        self.keep(&self.haproxy, |host| Daemon::haproxy(host, 8190, HAPROXY))
    }

    /// On `web`: takes HTTP/1 on loopback and speaks HTTP/2 to port 8240 of the service.
    pub(crate) fn haproxy_websocket(&self) -> Result<&Daemon, String> {
        let start = || {
            Daemon::haproxy(self.host("web"), 8241, &HAPROXY_WEBSOCKET.replace("@NAME@", NAME))
                .map_err(|e| e.to_string())
        };
        self.haproxy_websocket.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    /// A forward proxy to the host's own loopback.
    pub(crate) fn apache(&self) -> Result<&Daemon, String> {
        self.keep(&self.apache, |host| Daemon::apache(host, 8230, APACHE))
    }

    pub(crate) fn nghttpd(&self) -> Result<&Daemon, String> {
        self.keep(&self.nghttpd, |host| {
            let files: [(&str, &[u8]); 1] = [("hello", b"hello from nghttpd\n")];
            Daemon::nghttpd(host, 8200, &["--trailer", "x-end: all of it", "--echo-upload"], &files)
        })
    }

    /// An HTTP/1 server in Python that tells the bytes it got.
    pub(crate) fn http1_app(&self) -> Result<&Daemon, String> {
        self.keep(&self.http1_app, |host| apps::python_server(host, 8210, HTTP1_APP, &["8210"]))
    }

    pub(crate) fn redis(&self) -> Result<&Daemon, String> {
        self.keep(&self.redis, |host| Daemon::redis(host, 6379))
    }

    pub(crate) fn mariadb(&self) -> Result<&Daemon, String> {
        self.keep(&self.mariadb, |host| Daemon::mariadb(host, 3306))
    }

    pub(crate) fn sshd(&self) -> Result<&Sshd, String> {
        self.keep(&self.sshd, |host| Sshd::start(host, 2222))
    }

    pub(crate) fn grpc(&self) -> Result<&Daemon, String> {
        self.keep(&self.grpc, crate::grpc::start)
    }

    /// The same, whose connections go away after 200 ms each.
    pub(crate) fn aging_grpc(&self) -> Result<&Daemon, String> {
        self.keep(&self.aging_grpc, crate::grpc::start_aging)
    }

    pub(crate) fn websocket(&self) -> Result<&Daemon, String> {
        self.keep(&self.websocket, crate::websocket::start)
    }

    /// With TLS. `alice` may come from `web`'s own address only.
    pub(crate) fn postgres(&self) -> Result<&Postgres, String> {
        self.keep(&self.postgres, |host| {
            let access = "host all alice 10.10.1.10/32 trust\nhost all alice fd00:10::1:10/128 trust\n\
                          host all alice all reject\nhost all all all trust\n";
            let certificate = SelfSigned::new(&[NAME])?;
            let settings =
                PostgresSettings { access: Some(access), certificate: Some(&certificate), ..Default::default() };
            Postgres::start_with(host, 5432, &settings)
        })
    }

    /// Without TLS, and read-only as a standby is.
    pub(crate) fn standby(&self) -> Result<&Postgres, String> {
        self.keep(&self.standby, |host| {
            let settings = PostgresSettings { more: &["default_transaction_read_only=on"], ..Default::default() };
            Postgres::start_with(host, 5433, &settings)
        })
    }
}

/// The Service and its policy.
fn resources() -> String {
    let ports: String = PORTS
        .iter()
        .map(|(port, target, name, protocol)| {
            let protocol = if protocol.is_empty() { String::new() } else { format!(", appProtocol: {protocol}") };
            format!("    - {{ name: {name}, port: {port}, targetPort: {target}{protocol} }}\n")
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  namespace: shop\n  name: peers\nspec:\n  \
         clusterIPs: [{VIP}, \"{VIP_V6}\"]\n  selector: {{ app: orders }}\n  ports:\n{ports}---\n{POLICY}"
    )
}

const POLICY: &str = "apiVersion: mesh.isthmus.dev/v1alpha1
kind: ServicePolicy
metadata:
  namespace: shop
  name: peers
spec:
  services: [peers]
  transport: MeshOnly
  allow:
    - from:
        serviceAccounts: [web]
";
