//! An etcd cluster of the machine's own `etcd`: members on loopback with ports and directories of their own. A member can
//! be killed, and started again with what it had. Dropping it kills all of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Port;

/// A loaded machine takes seconds to elect a leader.
const READY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Certificates that members show and ask for.
#[derive(Debug, Clone)]
pub struct EtcdTls {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Members, and where they are.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    dir: tempfile::TempDir,
    tls: Option<EtcdTls>,
}

#[derive(Debug)]
struct Member {
    client: Port,
    peer: Port,
    health: Port,
    child: Option<Child>,
}

impl Etcd {
    /// Starts so many members, and waits until they have a leader.
    ///
    /// # Errors
    /// In words, with what etcd said.
    pub fn start(members: usize) -> Result<Etcd, String> {
        Self::start_with(members, None)
    }

    /// The same with TLS for clients, who must show a certificate of the same CA.
    ///
    /// # Errors
    /// In words, with what etcd said.
    pub fn start_with(members: usize, tls: Option<EtcdTls>) -> Result<Etcd, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let port = || Port::reserve().map_err(|e| e.to_string());
        let member = |_| Ok(Member { client: port()?, peer: port()?, health: port()?, child: None });
        let all = (0..members).map(member).collect::<Result<_, String>>()?;
        let mut etcd = Etcd { members: all, dir, tls };
        (0..members).try_for_each(|at| etcd.launch(at))?;
        (0..members).try_for_each(|at| etcd.wait(at))?;
        Ok(etcd)
    }

    fn launch(&mut self, at: usize) -> Result<(), String> {
        let cluster: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(n, member)| format!("m{n}=http://{}", member.peer.address()))
            .collect();
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let Member { client, peer, health, .. } = &self.members[at];
        let (client, peer, health) = (client.address(), peer.address(), health.address());
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{at}"), "--data-dir"])
            .arg(self.dir.path().join(format!("m{at}")))
            .args(["--listen-client-urls", &format!("{scheme}://{client}")])
            .args(["--advertise-client-urls", &format!("{scheme}://{client}")])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--listen-metrics-urls", &format!("http://{health}")])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .args(["--logger", "zap", "--log-level", "error"]);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
        }
        let log = std::fs::File::create(self.log(at)).map_err(|e| e.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.members[at].child = Some(child.map_err(|e| format!("etcd: {e}"))?);
        Ok(())
    }

    fn log(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("m{at}.log"))
    }

    /// Until the member says that it is healthy, which it is with a leader only.
    fn wait(&mut self, at: usize) -> Result<(), String> {
        let until = Instant::now() + READY;
        loop {
            let member = &mut self.members[at];
            let ended = member.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let healthy = is_healthy(member.health.address());
            if healthy {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > until {
                let said = std::fs::read_to_string(self.log(at)).unwrap_or_default();
                return Err(format!("etcd member {at} is not healthy ({ended:?}): {said}"));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Where clients reach the members.
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client.address()).collect()
    }

    /// `http://host:port` of each member.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.members.iter().map(|member| format!("{scheme}://{}", member.client.address())).collect()
    }

    /// Ends a member with SIGKILL.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a member again, with what it had on disk.
    ///
    /// # Errors
    /// In words, with what etcd said.
    pub fn restart(&mut self, at: usize) -> Result<(), String> {
        self.kill(at);
        self.launch(at)
    }

    /// Until all members that run are healthy.
    ///
    /// # Errors
    /// In words, with what etcd said.
    pub fn healthy(&mut self) -> Result<(), String> {
        let running = (0..self.members.len()).filter(|at| self.members[*at].child.is_some()).collect::<Vec<_>>();
        running.into_iter().try_for_each(|at| self.wait(at))
    }
}

fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains("\"health\":\"true\""))
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
    }
}
