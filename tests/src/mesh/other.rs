//! A second mesh in the same network, as another company would have it: a trust domain, a control plane, a sidecar and an
//! app of its own. It shares nothing with the first but the wires.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tempfile::TempDir;

use super::control_plane::ControlPlane;
use super::sidecar::Sidecar;
use super::{Mesh, ORDERS_NAMES};
use crate::apps::{Server, http_server};
use crate::process::Finished;
use crate::world::ON_PREM;

const DEADLINE: Duration = Duration::from_secs(40);

/// What it is called by apps of the first mesh, once that has a Service for it.
pub const VAULT_URL: &str = "http://vault.bank.svc.cluster.local/";
/// The address of that Service there.
const VAULT_VIP: &str = "10.96.0.20";

/// The hosts `bank` (the control plane, 10.20.0.3) and `vault` (10.20.1.30, an HTTP app on port 8080) in the data centre.
pub struct OtherMesh {
    // Dropped in this order: the processes before their files.
    sidecar: Sidecar,
    control: ControlPlane,
    _app: Server,
    _dir: TempDir,
}

impl OtherMesh {
    /// Builds it into the world of `mesh`: trust domain `bank.example`, resources as given.
    ///
    /// # Errors
    /// What failed, in words.
    pub fn start(mesh: &mut Mesh, resources: &str) -> Result<OtherMesh, String> {
        let dir = TempDir::with_prefix("isthmus-other-").map_err(|e| format!("a temporary directory: {e}"))?;
        let binary = mesh.options.binary.clone();
        let mut host = |name, address| mesh.world.add_host(ON_PREM, name, address).map_err(|e| e.to_string());
        let (bank, vault) = (host("bank", Ipv4Addr::new(10, 20, 0, 3))?, host("vault", Ipv4Addr::new(10, 20, 1, 30))?);
        let app = http_server(&vault, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))).map_err(|e| e.to_string())?;
        for caller in ["web", "batch"] {
            let entries = ORDERS_NAMES.iter().copied().chain([(VAULT_VIP, "vault", "bank")]);
            super::host_names(&mesh.world, caller, entries)?;
        }
        let control = ControlPlane::start(&bank, &binary, dir.path(), "bank.example")?;
        let run = |args: &[&str], input: &str| done(&control, args, input);
        run(&["apply", "-f", "-", "--wait"], resources)?;
        let token = dir.path().join("vault.token");
        run(&["token", "create", "bank/vault", "--out", &token.display().to_string()], "")?;
        let sidecar = Sidecar::start(&vault, &binary, &dir.path().join("vault"), &token, true, &[])?;
        sidecar.ready()?;
        Ok(OtherMesh { sidecar, control, _app: app, _dir: dir })
    }

    /// A command of its operator that must succeed; returns what it printed.
    ///
    /// # Errors
    /// What it said instead.
    pub fn isthmus(&self, args: &[&str], input: &str) -> Result<String, String> {
        done(&self.control, args, input)
    }

    /// The same with its exit status, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn isthmus_status(&self, args: &[&str]) -> Result<(Option<i32>, String), String> {
        let done = run(&self.control, args, "")?;
        Ok((done.status.code(), done.stdout + &done.stderr))
    }

    /// The sidecar of `vault`.
    pub fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// The sum of a metric's series of that sidecar.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64, String> {
        self.sidecar.metric(name, labels)
    }
}

fn run(control: &ControlPlane, args: &[&str], input: &str) -> Result<Finished, String> {
    control.host().output(control.command(args).input(input), DEADLINE).map_err(|e| e.to_string())
}

fn done(control: &ControlPlane, args: &[&str], input: &str) -> Result<String, String> {
    let done = run(control, args, input)?;
    match done.status.success() {
        true => Ok(done.stdout),
        false => Err(format!("bank: isthmus {}: {}\n{}{}", args.join(" "), done.status, done.stdout, done.stderr)),
    }
}
