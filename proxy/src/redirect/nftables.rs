//! Carries a [`Plan`] out: one table over netlink, in one transaction, without any external program.
//!
//! The kernel ties the table to the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can change it by
//! accident, and it vanishes with the proxy however that ends, so that no host is left with its traffic redirected to
//! a port where nobody listens. Refuses to take over a table that a living process owns.

use isthmus_netlink::{Family, NetlinkError, Socket};

use super::message::{Batch, Hook, KernelRule, OWNER, Table};
use super::plan::{PRIORITY, Plan, TABLE};
use super::{message, rule};

/// Others change the rule set too; a transaction that met such a change is made again, but not for ever.
const ATTEMPTS: usize = 8;
const OUTBOUND: (&str, Hook) = ("outbound", Hook { kind: "nat", number: LOCAL_OUT, priority: PRIORITY });
const INBOUND: (&str, Hook) = ("inbound", Hook { kind: "nat", number: PREROUTING, priority: PRIORITY });
const PREROUTING: u32 = 0;
const LOCAL_OUT: u32 = 3;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ERESTART: i32 = 85;
const ENOPROTOOPT: i32 = 92;
const EOPNOTSUPP: i32 = 95;
const EPROTONOSUPPORT: i32 = 93;

/// Why traffic could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The process may not change the rules of this network namespace.
    #[error(
        "not permitted to capture traffic: give the proxy CAP_NET_ADMIN in its network namespace (systemd: \
         AmbientCapabilities=CAP_NET_ADMIN; Kubernetes: the init container's securityContext), or set capture.mode: none"
    )]
    NotPermitted,
    /// Another process holds the table.
    #[error(
        "another isthmus proxy captures traffic in this network namespace already; stop it first (nft list table inet {TABLE})"
    )]
    AlreadyCaptured,
    /// The kernel lacks something.
    #[error(
        "this kernel cannot capture: {0}; Linux 5.12 or later with nft_chain_nat, nft_redir and nft_fib_inet is needed \
         (modprobe them, or build them in)"
    )]
    Unsupported(#[source] NetlinkError),
    /// Anything else the kernel said.
    #[error("the kernel refused the capture rules: {0}")]
    Kernel(#[source] NetlinkError),
    /// Other programs change rules faster than we can apply ours.
    #[error(
        "the rule set changed {ATTEMPTS} times while capture was being applied; another program rewrites it in a loop"
    )]
    Contended,
}

/// Traffic of this network namespace is captured for as long as this lives (and its rules have been applied).
pub struct Capture {
    socket: Socket,
    applied: Option<Plan>,
}

impl Capture {
    /// Opens the socket that will own the rules, in the calling thread's network namespace. Changes nothing yet.
    ///
    /// # Errors
    /// Where the kernel has no netfilter netlink.
    pub fn open() -> Result<Capture, CaptureError> {
        let socket = Socket::open(Family::Netfilter).map_err(|error| explain(error.into()))?;
        Ok(Capture { socket, applied: None })
    }

    /// Puts `plan` in force in place of what this owner applied before, in one transaction: no packet meets half of it.
    /// Applying the same plan again changes nothing.
    ///
    /// # Errors
    /// See [`CaptureError`]; then the rules are as they were.
    pub fn apply(&mut self, plan: &Plan) -> Result<(), CaptureError> {
        for _ in 0..ATTEMPTS {
            match self.replace(plan) {
                Err(CaptureError::Kernel(error)) if error.errno() == Some(ERESTART) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.applied = Some(plan.clone());
                    return Ok(());
                }
            }
        }
        Err(CaptureError::Contended)
    }

    /// Takes the rules away; what was captured stays with the proxy until it ends.
    ///
    /// # Errors
    /// The kernel's; the rules then go when this value is dropped.
    pub fn remove(mut self) -> Result<(), CaptureError> {
        if self.applied.is_some() && self.table()?.is_some() {
            let mut batch = Batch::new(self.generation()?);
            batch.delete_table(TABLE);
            self.socket.transaction(&batch.finish()).map_err(explain)?;
        }
        Ok(())
    }

    fn replace(&mut self, plan: &Plan) -> Result<(), CaptureError> {
        let generation = self.generation()?;
        let table = self.table()?;
        let chains = [(OUTBOUND, &plan.outbound), (INBOUND, &plan.inbound)];
        let wanted: Vec<KernelRule> = chains
            .iter()
            .flat_map(|((name, _), rules)| {
                rules.iter().map(|each| KernelRule { chain: (*name).to_owned(), steps: rule::expressions(each) })
            })
            .collect();
        let mut batch = Batch::new(generation);
        match table {
            Some(table) if table.owner.is_some_and(|owner| owner != self.socket.port()) => {
                return Err(CaptureError::AlreadyCaptured);
            }
            Some(table) if table.owner.is_some() && self.rules()? == wanted => return Ok(()),
            Some(table) if table.owner.is_none() => batch.delete_table(TABLE),
            _ => {}
        }
        batch.add_table(TABLE, OWNER);
        for ((name, hook), rules) in chains {
            batch.add_chain(TABLE, name, &hook);
            batch.delete_rules(TABLE, name);
            for each in rules {
                batch.add_rule(TABLE, name, &rule::expressions(each), each.why);
            }
        }
        self.socket.transaction(&batch.finish()).map_err(explain)
    }

    /// Grows with each change of any rule of this network namespace, by whomever.
    ///
    /// # Errors
    /// The kernel's.
    pub fn generation(&mut self) -> Result<u32, CaptureError> {
        let answers = self.socket.ask(message::get_generation()).map_err(explain)?;
        let generation = answers.first().map(|(_, payload)| message::read_generation(payload)).transpose();
        generation.map_err(|error| explain(error.into()))?.flatten().ok_or(CaptureError::Kernel(NetlinkError::NoAnswer))
    }

    /// How many rules of whichever proxy are there; nothing where there is not even a table.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rules_in_force(&mut self) -> Result<Option<usize>, CaptureError> {
        Ok(if self.table()?.is_some() { Some(self.rules()?.len()) } else { None })
    }

    fn table(&mut self) -> Result<Option<Table>, CaptureError> {
        match self.socket.ask(message::get_table(TABLE)) {
            Err(error) if error.errno() == Some(ENOENT) => Ok(None),
            Err(error) => Err(explain(error)),
            Ok(answers) => {
                let table = answers.first().map(|(_, payload)| message::read_table(payload)).transpose();
                table.map_err(|error| explain(error.into()))
            }
        }
    }

    fn rules(&mut self) -> Result<Vec<KernelRule>, CaptureError> {
        let answers = self.socket.ask(message::get_rules(TABLE)).map_err(explain)?;
        let rules = answers.iter().map(|(_, payload)| message::read_rule(payload));
        rules.collect::<Result<_, _>>().map_err(|error| explain(error.into()))
    }
}

fn explain(error: NetlinkError) -> CaptureError {
    match error.errno() {
        Some(EPERM) => CaptureError::NotPermitted,
        Some(ENOENT | ENOPROTOOPT | EOPNOTSUPP | EPROTONOSUPPORT) => CaptureError::Unsupported(error),
        _ => CaptureError::Kernel(error),
    }
}
