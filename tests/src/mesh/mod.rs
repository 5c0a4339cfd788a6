//! The mesh of the demo in a world: one control plane, one sidecar per workload, the apps, a collector; all of them the
//! processes and files that a user would deploy. Used by the demo and by every end-to-end suite.

mod caller;
mod control_plane;
mod load;
mod open;
mod operator;
mod orders;
mod other;
mod outage;
pub mod resources;
mod sidecar;
mod tls_peer;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub use self::caller::Answer;
use self::caller::Caller;
pub use self::control_plane::ControlPlane;
pub use self::load::{Load, LoadResult};
pub use self::open::OpenStream;
pub use self::operator::{Applied, Proxy, Stored};
use self::orders::Orders;
pub use self::other::{OtherMesh, VAULT_URL};
pub use self::sidecar::{PrivateKey, Sidecar};
pub use self::tls_peer::Handshake;
pub use self::trouble::{Held, Lure};
use crate::otlp::Receiver;
use crate::world::World;

/// The workloads with a sidecar; their names are those of their hosts and service accounts.
pub const WORKLOADS: [&str; 3] = ["web", "batch", "orders"];
/// What the apps call. Nothing in it tells of a mesh.
pub const ORDERS_URL: &str = "http://orders.shop.svc.cluster.local/";
/// Between two looks at something that is awaited: short against what is measured, long against the look itself.
const LOOK: Duration = Duration::from_millis(20);

/// What a mesh is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `isthmus` binary.
    pub binary: PathBuf,
    /// Only the world's own clients and servers, though others are installed.
    pub built_in_only: bool,
    /// Hold microseconds against the link emulator's: on an optimised build with the machine to itself.
    pub timed: bool,
    /// Of the link between the sites.
    pub round_trip: Duration,
}

/// A running mesh. Dropping it ends every process and every namespace.
pub struct Mesh {
    // Dropped in this order: first the processes, then the namespaces they live in, then their files.
    sidecars: BTreeMap<&'static str, Sidecar>,
    control: ControlPlane,
    orders: Orders,
    collector: Receiver,
    caller: Caller,
    world: World,
    options: Options,
    dir: TempDir,
}

impl Mesh {
    /// Builds everything and waits until every sidecar is ready.
    ///
    /// # Errors
    /// What failed, in words, with the last lines of the process concerned.
    pub fn start(options: &Options, progress: &mut dyn FnMut(&str)) -> Result<Mesh, String> {
        let dir = TempDir::with_prefix("isthmus-mesh-").map_err(|e| format!("a temporary directory: {e}"))?;
        progress("two sites and the link between them");
        let world = World::two_sites().stranger().round_trip(options.round_trip).build().map_err(|e| e.to_string())?;
        for workload in WORKLOADS {
            host_names(&world, workload, ORDERS_NAMES.iter().copied())?;
        }
        let mut collector = Receiver::new();
        collector.listen_unix(world.host("control"), &dir.path().join("otlp.sock")).map_err(|e| e.to_string())?;
        progress("the apps on orders");
        let orders = Orders::start(world.host("orders"), options.built_in_only)?;
        progress("the control plane");
        let control = ControlPlane::start(world.host("control"), &options.binary, dir.path(), "shop.example")?;
        let caller = Caller::new(options.built_in_only);
        let options = options.clone();
        let mut mesh = Mesh { sidecars: BTreeMap::new(), control, orders, collector, caller, world, options, dir };
        progress("sites, services and policies");
        let collector = mesh.collector_url();
        mesh.apply(&resources::mesh(&collector, "24h"))?;
        mesh.apply(&[resources::WORKLOADS, resources::SERVICES, resources::POLICIES].join("\n---\n"))?;
        progress("three sidecars, each with its join token");
        for workload in WORKLOADS {
            mesh.join(workload)?;
        }
        for (workload, sidecar) in &mesh.sidecars {
            sidecar.ready().map_err(|e| format!("the sidecar of {workload} did not get ready: {e}"))?;
        }
        Ok(mesh)
    }

    /// A token for a workload, and its sidecar with that token.
    fn join(&mut self, workload: &'static str) -> Result<(), String> {
        let token = self.token(&format!("shop/{workload}"), "1h", &format!("{workload}.token"))?;
        let dir = self.dir.path().join(workload);
        let vm = workload == "orders";
        let sidecar = Sidecar::start(self.world.host(workload), &self.options.binary, &dir, &token, vm, &[])?;
        self.sidecars.insert(workload, sidecar);
        Ok(())
    }

    /// The network.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The network, to add hosts to it.
    pub fn world_mut(&mut self) -> &mut World {
        &mut self.world
    }

    /// The sidecar of a workload.
    ///
    /// # Panics
    /// When the workload is not one of [`WORKLOADS`].
    pub fn sidecar(&self, workload: &str) -> &Sidecar {
        self.sidecars.get(workload).unwrap_or_else(|| panic!("no sidecar at {workload}"))
    }

    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    pub fn control_mut(&mut self) -> &mut ControlPlane {
        &mut self.control
    }

    /// Starts the control plane again on the state that it left.
    pub fn restart_control(&mut self) -> Result<(), String> {
        self.control.launch()
    }

    /// Whether microseconds mean anything in this run.
    pub fn is_timed(&self) -> bool {
        self.options.timed
    }

    /// Where spans arrive.
    pub fn collector(&self) -> &Receiver {
        &self.collector
    }

    pub fn collector_url(&self) -> String {
        format!("unix:{}", self.dir.path().join("otlp.sock").display())
    }

    /// The program that plays the callers.
    pub fn caller(&self) -> &'static str {
        self.caller.name()
    }

    /// The program that plays the callee.
    pub fn orders_app(&self) -> &'static str {
        self.orders.name()
    }

    /// A GET as an app on `from` makes it.
    pub fn get(&self, from: &str, url: &str) -> Result<Answer, String> {
        self.get_with(from, url, &[])
    }

    /// The same with headers of the app's own.
    pub fn get_with(&self, from: &str, url: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        self.caller.get(self.world.host(from), url, headers)
    }

    /// The sum of the series of a sidecar's metric that carry these labels.
    pub fn metric(&self, workload: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64, String> {
        self.sidecar(workload).metric(name, labels)
    }

    /// Has a sidecar's certificate renewed now.
    pub fn renew(&self, workload: &str) -> Result<(), String> {
        self.sidecar(workload).renew()
    }

    /// What the operator sees of a refusal.
    pub fn decision(&self, workload: &str, id: &str) -> Result<serde_json::Value, String> {
        let answer = self.sidecar(workload).admin(&format!("/decisions/{id}"))?;
        match answer.status {
            200 => serde_json::from_str(&answer.body).map_err(|e| format!("decision {id}: {e}: {}", answer.body)),
            status => Err(format!("decision {id}: {status} {}", answer.body)),
        }
    }

    /// The configuration dump of a sidecar's admin socket.
    pub fn config_dump(&self, workload: &str) -> Result<String, String> {
        self.sidecar(workload).admin("/config_dump").map(|answer| answer.body)
    }

    /// The private key of a workload, as its sidecar keeps it.
    pub fn private_key(&self, workload: &str) -> Result<PrivateKey, String> {
        self.sidecar(workload).private_key()
    }

    /// A file of the control plane that holds these bytes.
    pub fn control_plane_file_with(&self, needle: &[u8]) -> Option<PathBuf> {
        let entries = fs::read_dir(self.control.state()).ok()?;
        let holds = |path: &PathBuf| fs::read(path).is_ok_and(|bytes| bytes.windows(needle.len()).any(|w| w == needle));
        entries.flatten().map(|entry| entry.path()).find(holds)
    }

    /// Looks again and again until `look` finds what is awaited.
    ///
    /// # Errors
    /// The look's own, or that the deadline has passed.
    pub fn until<T>(
        &self,
        deadline: Duration,
        what: &str,
        mut look: impl FnMut(&Mesh) -> Result<Option<T>, String>,
    ) -> Result<T, String> {
        let started = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if started.elapsed() > deadline {
                return Err(format!("not within {} s: {what}", deadline.as_secs()));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    /// Remembers how often `workload` has refused for `reason` so far.
    pub fn refusal(&self, workload: &'static str, reason: &'static str) -> Result<Refusal, String> {
        let accepts = self.orders_reached()?;
        Ok(Refusal { workload, reason, count: self.refused(workload, reason)?, accepts })
    }

    fn refused(&self, workload: &str, reason: &str) -> Result<f64, String> {
        self.metric(workload, "isthmus_refused_total", &[("reason", reason)])
    }

    /// How much has reached the app on orders: connections and requests.
    pub fn orders_reached(&self) -> Result<u64, String> {
        self.orders.reached()
    }

    /// How many connections or requests the app has got since `before`; none is an error.
    pub fn requests_reached(&self, before: u64) -> Result<u64, String> {
        match self.orders_reached()?.saturating_sub(before) {
            0 => Err("with the rule relaxed nothing reached the app: its counters stood still".to_owned()),
            reached => Ok(reached),
        }
    }
}

/// A refusal that is about to happen: the proxy must count it, and the app must not see it.
#[derive(Debug)]
pub struct Refusal {
    workload: &'static str,
    reason: &'static str,
    count: f64,
    accepts: u64,
}

impl Refusal {
    /// Checks both.
    pub fn happened(self, mesh: &Mesh) -> Result<(), String> {
        let Refusal { workload, reason, .. } = self;
        if mesh.refused(workload, reason)? <= self.count {
            return Err(format!("the metric of {workload} shows no refusal for {reason}"));
        }
        match mesh.orders_reached()?.saturating_sub(self.accepts) {
            0 => Ok(()),
            seen => Err(format!("refused for {reason}, and yet the app saw {seen} connections or requests")),
        }
    }
}

/// Virtual address, name and namespace of the services that the mesh has from the beginning.
const ORDERS_NAMES: [(&str, &str, &str); 3] =
    [("10.96.0.10", "orders", "shop"), ("10.96.0.11", "orders-tls", "shop"), ("10.96.0.12", "orders-db", "shop")];

/// The hosts file of an app's host: service names at their virtual addresses.
fn host_names<'a>(
    world: &World,
    workload: &str,
    names: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
) -> Result<(), String> {
    let entries: Vec<_> = names
        .map(|(ip, name, ns)| (ip.parse().expect("an address"), format!("{name}.{ns}.svc.cluster.local {name}.{ns}")))
        .collect();
    let entries: Vec<_> = entries.iter().map(|(ip, names)| (*ip, names.as_str())).collect();
    world.host(workload).set_hosts(&entries).map_err(|e| e.to_string())
}
