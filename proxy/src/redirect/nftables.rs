//! Carries a [`Plan`] out: one table over netlink, in one transaction, without any external program.
//!
//! Where the kernel can (Linux 6.9), the table is owned by our socket and persists: nobody else can change it, not even
//! by `nft flush ruleset`; when the proxy dies without a word it stays, so that what would have been captured is refused
//! and not sent in plain text, and the next proxy takes it over as it stands. On older kernels it belongs to nobody;
//! then [`super::Changes`] tells of every change, and [`Capture::apply`] puts it right. Rules are replaced inside of
//! their chains, which stay hooked: no packet meets half of a plan, or none. Refuses to take over a table that a living
//! process owns.

use isthmus_netlink::{Family, NetlinkError, Socket};

use super::error::CaptureError;
use super::expression::Expression;
use super::message::{self, Batch, Hook, KernelChain, KernelRule, OWNER, PERSIST, Table};
use super::plan::{PRIORITY, Plan, TABLE};
use super::rule;

/// Others change the rule set too; a transaction that met such a change is made again, but not for ever.
const ATTEMPTS: usize = 8;

const OUTBOUND: (&str, Hook) = ("outbound", Hook { kind: "nat", number: LOCAL_OUT, priority: PRIORITY });
const INBOUND: (&str, Hook) = ("inbound", Hook { kind: "nat", number: PREROUTING, priority: PRIORITY });
const UDP: (&str, Hook) = ("udp", Hook { kind: "filter", number: LOCAL_OUT, priority: 0 });
const PREROUTING: u32 = 0;
const LOCAL_OUT: u32 = 3;

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const ERESTART: i32 = 85;
const EOPNOTSUPP: i32 = 95;

/// Against whom the kernel protects the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nobody else can change them, and they outlive their owner.
    Owned,
    /// They go with whoever applied them, however that ends: for a trial.
    Trial,
    /// None: they outlive whoever applied them, and anybody with the right to can change them.
    Unowned,
}

/// What [`Capture::apply`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The very plan was in force; nothing was touched.
    AsItWas,
    /// There was nothing.
    New,
    /// There were rules of ours, of the same owner or of one that is gone; they were replaced.
    Replaced,
}

/// How what is there compares with a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// No table of ours.
    Absent,
    /// Exactly the plan.
    InForce { owned: bool, persistent: bool },
    /// A table of ours that is not the plan.
    Differs { owned: bool, rules: usize, wanted: usize },
}

/// Rules of ours as they were.
#[derive(Debug, Clone)]
pub struct Snapshot(Found);

/// The capture of this network namespace's traffic. What becomes of the rules when this is dropped: see [`Protection`].
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
    protection: Protection,
}

#[derive(Debug, Clone)]
struct Found {
    table: Table,
    chains: Vec<KernelChain>,
    rules: Vec<KernelRule>,
}

impl Capture {
    /// Opens the socket that will own the rules, in the calling thread's network namespace. Changes nothing yet.
    ///
    /// # Errors
    /// Where the kernel has no netfilter netlink.
    pub fn open(protection: Protection) -> Result<Capture, CaptureError> {
        let socket = Socket::open(Family::Netfilter).map_err(|error| CaptureError::from_netlink(error.into()))?;
        Ok(Capture { socket, protection })
    }

    /// How the rules are protected; known for certain once they have been applied.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Puts `plan` in force in place of what is there of ours, in one transaction. Where it is in force already nothing
    /// is changed. A kernel that cannot protect the rules gets them unprotected.
    ///
    /// # Errors
    /// See [`CaptureError`]; then the rules are as they were.
    pub fn apply(&mut self, plan: &Plan) -> Result<Applied, CaptureError> {
        for _ in 0..ATTEMPTS {
            match self.replace(plan) {
                Err(CaptureError::Kernel(error)) if error.errno() == Some(ERESTART) => {}
                // Linux before 6.9 knows no persistence, before 5.12 no owner either.
                Err(CaptureError::Kernel(error) | CaptureError::Unsupported(error))
                    if self.protection == Protection::Owned && unknown_flag(&error) =>
                {
                    self.protection = Protection::Unowned;
                }
                outcome => return outcome,
            }
        }
        Err(CaptureError::Contended)
    }

    /// Takes the rules away, of whomever they are, but not from a living proxy; what was captured stays with the proxy
    /// until it ends. False where there were none.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn remove(&mut self) -> Result<bool, CaptureError> {
        for _ in 0..ATTEMPTS {
            let generation = self.generation()?;
            let Some(table) = self.table()? else { return Ok(false) };
            self.refuse_anothers(table)?;
            let mut batch = Batch::new(generation);
            batch.delete_table(TABLE);
            match self.socket.transaction(&batch.finish()) {
                Err(error) if error.errno() == Some(ERESTART) => {}
                outcome => return outcome.map(|()| true).map_err(CaptureError::from_netlink),
            }
        }
        Err(CaptureError::Contended)
    }

    /// What is there of ours, to be brought back by [`Capture::restore`]; nothing where nothing is.
    ///
    /// # Errors
    /// [`CaptureError::Foreign`] where there is more than a proxy would have made.
    pub fn snapshot(&mut self) -> Result<Option<Snapshot>, CaptureError> {
        let Some(found) = self.found()? else { return Ok(None) };
        self.refuse_anothers(found.table)?;
        let foreign_step = |step: &Expression| matches!(step, Expression::Other(_));
        let foreign = found.chains.iter().any(|chain| chain.hook.is_none())
            || found.rules.iter().any(|rule| rule.steps.iter().any(foreign_step));
        if foreign { Err(CaptureError::Foreign) } else { Ok(Some(Snapshot(found))) }
    }

    /// Puts back what [`Capture::snapshot`] saw, or nothing where it saw nothing, and leaves it unowned, as it was.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub fn restore(mut self, snapshot: Option<&Snapshot>) -> Result<(), CaptureError> {
        let Some(Snapshot(before)) = snapshot else { return self.remove().map(|_| ()) };
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new(self.generation()?);
            if let Some(table) = self.table()? {
                self.refuse_anothers(table)?;
                batch.delete_table(TABLE);
            }
            // What persists must have been owned; it is again without an owner when this socket is closed.
            let persists = before.table.flags & PERSIST != 0;
            batch.add_table(TABLE, if persists { OWNER | PERSIST } else { before.table.flags });
            for (chain, hook) in before.chains.iter().filter_map(|chain| Some((chain, chain.hook?))) {
                batch.add_chain(TABLE, &chain.name, &hook);
            }
            for rule in &before.rules {
                batch.add_rule(TABLE, &rule.chain, &rule.steps, &rule.comment);
            }
            match self.socket.transaction(&batch.finish()) {
                Err(error) if error.errno() == Some(ERESTART) => {}
                outcome => return outcome.map_err(CaptureError::from_netlink),
            }
        }
        Err(CaptureError::Contended)
    }

    /// From now on [`Capture::apply`] makes rules that stay, also of what was a trial.
    pub fn make_lasting(&mut self) {
        self.protection = Protection::Owned;
    }

    /// Compares; changes nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn standing(&mut self, plan: &Plan) -> Result<Standing, CaptureError> {
        let Some(found) = self.found()? else { return Ok(Standing::Absent) };
        let (owned, persistent) = (found.table.owner.is_some(), found.table.flags & PERSIST != 0);
        let wanted = wanted(plan);
        Ok(if is(&found, plan, &wanted) {
            Standing::InForce { owned, persistent }
        } else {
            Standing::Differs { owned, rules: found.rules.len(), wanted: wanted.len() }
        })
    }

    /// How many UDP packets have been dropped since the rules were last replaced.
    ///
    /// # Errors
    /// The kernel's.
    pub fn dropped_udp(&mut self) -> Result<u64, CaptureError> {
        Ok(self.found()?.map_or(0, |found| found.rules.iter().filter_map(|rule| rule.packets).sum()))
    }

    /// Grows with each change of any rule of this network namespace, by whomever.
    ///
    /// # Errors
    /// The kernel's.
    pub fn generation(&mut self) -> Result<u32, CaptureError> {
        let answers = self.socket.ask(message::get_generation()).map_err(|error| match error.errno() {
            // Nobody there who understands: a kernel without nf_tables (nfnetlink_rcv_msg).
            Some(EINVAL) => CaptureError::Unsupported(error),
            _ => CaptureError::from_netlink(error),
        })?;
        let generation = answers.first().map(|(_, payload)| message::read_generation(payload)).transpose();
        let generation = generation.map_err(|error| CaptureError::from_netlink(error.into()))?;
        generation.flatten().ok_or(CaptureError::Kernel(NetlinkError::NoAnswer))
    }

    fn replace(&mut self, plan: &Plan) -> Result<Applied, CaptureError> {
        let mut batch = Batch::new(self.generation()?);
        let (found, wanted) = (self.found()?, wanted(plan));
        let flags = match self.protection {
            Protection::Owned => OWNER | PERSIST,
            Protection::Trial => OWNER,
            Protection::Unowned => 0,
        };
        let mut keep = None;
        if let Some(found) = &found {
            self.refuse_anothers(found.table)?;
            keep = self.kept_flags(found, flags, plan);
            if keep == Some(found.table.flags) && is(found, plan, &wanted) {
                return Ok(Applied::AsItWas);
            }
            match keep {
                Some(_) => found.chains.iter().for_each(|chain| {
                    batch.delete_rules(TABLE, &chain.name);
                    if !chains(plan).any(|((name, _), _)| name == chain.name) {
                        batch.delete_chain(TABLE, &chain.name);
                    }
                }),
                None => batch.delete_table(TABLE),
            }
        }
        batch.add_table(TABLE, keep.unwrap_or(flags));
        for ((name, hook), rules) in chains(plan) {
            batch.add_chain(TABLE, name, &hook);
            for each in rules {
                batch.add_rule(TABLE, name, &rule::expressions(each), each.why);
            }
        }
        self.socket.transaction(&batch.finish()).map_err(CaptureError::from_netlink)?;
        Ok(if found.is_some() { Applied::Replaced } else { Applied::New })
    }

    /// The flags with which the table can stay, and its chains with it, so that there is no moment without them: the
    /// kernel lets nobody take over but what persists, and nothing begin or cease to persist (nf_tables_updtable).
    fn kept_flags(&self, found: &Found, wanted: u32, plan: &Plan) -> Option<u32> {
        let same_place = chains(plan)
            .all(|((name, hook), _)| found.chains.iter().all(|chain| chain.name != name || chain.hook == Some(hook)));
        let there = found.table.flags;
        let flags = match (self.protection, found.table.owner) {
            (_, Some(_)) => Some(there).filter(|there| *there == wanted),
            (Protection::Owned, None) => Some(wanted).filter(|_| there & PERSIST != 0),
            (Protection::Trial, None) => None,
            (Protection::Unowned, None) => Some(there),
        };
        flags.filter(|_| same_place)
    }

    fn refuse_anothers(&self, table: Table) -> Result<(), CaptureError> {
        match table.owner {
            Some(owner) if owner != self.socket.port() => Err(CaptureError::AlreadyCaptured),
            _ => Ok(()),
        }
    }

    fn table(&mut self) -> Result<Option<Table>, CaptureError> {
        match self.socket.ask(message::get_table(TABLE)) {
            Err(error) if error.errno() == Some(ENOENT) => Ok(None),
            Err(error) => Err(CaptureError::from_netlink(error)),
            Ok(answers) => {
                let table = answers.first().map(|(_, payload)| message::read_table(payload)).transpose();
                table.map_err(|error| CaptureError::from_netlink(error.into()))
            }
        }
    }

    fn found(&mut self) -> Result<Option<Found>, CaptureError> {
        let Some(table) = self.table()? else { return Ok(None) };
        let chains = self.socket.ask(message::get_chains()).map_err(CaptureError::from_netlink)?;
        let chains = chains.iter().filter_map(|(_, payload)| message::read_chain(payload, TABLE).transpose());
        let chains = chains.collect::<Result<_, _>>().map_err(|error| CaptureError::from_netlink(error.into()))?;
        let rules = self.socket.ask(message::get_rules(TABLE)).map_err(CaptureError::from_netlink)?;
        let rules = rules.iter().map(|(_, payload)| message::read_rule(payload));
        let rules = rules.collect::<Result<_, _>>().map_err(|error| CaptureError::from_netlink(error.into()))?;
        Ok(Some(Found { table, chains, rules }))
    }
}

/// The chains that a plan needs, with their rules.
fn chains(plan: &Plan) -> impl Iterator<Item = ((&'static str, Hook), &Vec<super::Rule>)> {
    let udp = Some((UDP, &plan.udp)).filter(|(_, rules)| !rules.is_empty());
    [(OUTBOUND, &plan.outbound), (INBOUND, &plan.inbound)].into_iter().chain(udp)
}

/// The rules of a plan as the kernel shows them.
fn wanted(plan: &Plan) -> Vec<KernelRule> {
    let rules = chains(plan).flat_map(|((name, _), rules)| rules.iter().map(move |rule| (name, rule)));
    rules
        .map(|(name, each)| KernelRule {
            chain: name.to_owned(),
            steps: rule::expressions(each),
            comment: each.why.to_owned(),
            packets: None,
        })
        .collect()
}

fn is(found: &Found, plan: &Plan, wanted: &[KernelRule]) -> bool {
    let chains_are = chains(plan).count() == found.chains.len()
        && chains(plan)
            .all(|((name, hook), _)| found.chains.iter().any(|chain| chain.name == name && chain.hook == Some(hook)));
    // In each chain the order counts; that of the chains does not.
    let rules_are = found.rules.len() == wanted.len()
        && chains(plan).all(|((name, _), _)| {
            let of_chain = |rules: &[KernelRule]| -> Vec<_> {
                rules.iter().filter(|rule| rule.chain == name).map(|rule| rule.steps.clone()).collect()
            };
            of_chain(&found.rules) == of_chain(wanted)
        });
    chains_are && rules_are
}

fn unknown_flag(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(EINVAL | EOPNOTSUPP))
}
