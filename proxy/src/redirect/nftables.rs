//! Carries a [`Plan`] out: one table over netlink, in one transaction, without any external program.
//!
//! The kernel ties the table to the socket that made it (`NFT_TABLE_F_OWNER`, Linux 5.12): nobody else can change it by
//! accident, and it vanishes with the proxy however that ends, so that no host is left with its traffic redirected to
//! a port where nobody listens. Refuses to take over a table that a living process owns.

use nlink::netlink::nftables::{
    BaseChain, Chain, Expr, Family, FibFlags, FibResult, Field, Match, MetaKey, NFT_TABLE_F_OWNER, NatHook, Policy,
    Priority, Register, RuleSpec, Stmt, Value, Verdict,
};
use nlink::netlink::nftables::{CmpOp, Rule as NftRule};
use nlink::netlink::types::route::RouteType;
use nlink::netlink::{Connection, Nftables};

use super::plan::{Action, Condition, PRIORITY, Plan, Rule, TABLE};

/// Others change the rule set too; a transaction that met such a change is made again, but not for ever.
const ATTEMPTS: usize = 8;
const IPPROTO_TCP: u8 = 6;

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
    Unsupported(#[source] nlink::Error),
    /// Anything else the kernel said.
    #[error("the kernel refused the capture rules: {0}")]
    Kernel(#[source] nlink::Error),
    /// Other programs change rules faster than we can apply ours.
    #[error(
        "the rule set changed {ATTEMPTS} times while capture was being applied; another program rewrites it in a loop"
    )]
    Contended,
}

/// Traffic of this network namespace is captured for as long as this lives (and its rules have been applied).
pub struct Capture {
    socket: Connection<Nftables>,
    applied: Option<Plan>,
}

impl Capture {
    /// Opens the socket that will own the rules, in the calling thread's network namespace. Changes nothing yet. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// Where the kernel has no netfilter netlink.
    pub fn open() -> Result<Capture, CaptureError> {
        let socket = Connection::<Nftables>::new().map_err(explain)?;
        Ok(Capture { socket, applied: None })
    }

    /// Puts `plan` in force in place of what this owner applied before, in one transaction: no packet meets half of it.
    /// Applying the same plan again changes nothing.
    ///
    /// # Errors
    /// See [`CaptureError`]; then the rules are as they were.
    pub async fn apply(&mut self, plan: &Plan) -> Result<(), CaptureError> {
        if self.applied.as_ref() == Some(plan) && self.table().await?.is_some() {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            match self.replace(plan).await {
                Err(CaptureError::Kernel(error)) if error.is_restart() => {}
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
    pub async fn remove(self) -> Result<(), CaptureError> {
        if self.applied.is_some() && self.table().await?.is_some() {
            self.socket.transaction().del_table(TABLE, Family::Inet).commit(&self.socket).await.map_err(explain)?;
        }
        Ok(())
    }

    async fn replace(&self, plan: &Plan) -> Result<(), CaptureError> {
        let generation = self.socket.generation().await.map_err(explain)?;
        let mut batch = self.socket.transaction().expect_generation(generation);
        if let Some(flags) = self.table().await? {
            if self.applied.is_none() && flags & NFT_TABLE_F_OWNER != 0 {
                return Err(CaptureError::AlreadyCaptured);
            }
            batch = batch.del_table(TABLE, Family::Inet);
        }
        batch = batch.add_table_with_flags(TABLE, Family::Inet, NFT_TABLE_F_OWNER);
        let chains = [("outbound", NatHook::Output, &plan.outbound), ("inbound", NatHook::Prerouting, &plan.inbound)];
        for (name, hook, rules) in chains {
            let base = BaseChain::nat(hook, Priority::Custom(PRIORITY)).policy(Policy::Accept);
            batch = batch.add_chain(Chain::new(TABLE, name).map_err(explain)?.family(Family::Inet).base(base));
            for rule in rules {
                batch = batch.add_rule(NftRule::from_spec(TABLE, name, spec(rule)).family(Family::Inet));
            }
        }
        batch.commit(&self.socket).await.map_err(explain)
    }

    /// The flags of the table, if it is there.
    async fn table(&self) -> Result<Option<u32>, CaptureError> {
        let tables = self.socket.list_tables_in(Family::Inet).await.map_err(explain)?;
        Ok(tables.into_iter().find(|table| table.name == TABLE).map(|table| table.flags))
    }
}

/// A rule as the kernel takes it.
pub(super) fn spec(rule: &Rule) -> RuleSpec {
    let fib = || Field::Fib { flags: FibFlags::DADDR, result: FibResult::AddrType };
    let spec = RuleSpec::new();
    let spec = match &rule.when {
        Condition::Mark(mark) => spec.then(Match::eq(Field::Mark, *mark)),
        // nlink has no field for the socket's owner; the expressions are the two that nft writes.
        Condition::Uid(uid) => spec.then(Expr::Meta { dreg: Register::R0, key: MetaKey::SkUid }).then(Expr::Cmp {
            sreg: Register::R0,
            op: CmpOp::Eq,
            data: uid.to_ne_bytes().to_vec(),
        }),
        Condition::ToLoopback => spec.then(Match::eq(Field::Oifname, "lo")),
        Condition::FromLoopback => spec.then(Match::eq(Field::Iifname, "lo")),
        Condition::ToThisHost => spec.then(Match::eq(fib(), RouteType::Local)),
        Condition::NotToThisHost => spec.then(Match::ne(fib(), RouteType::Local)),
        Condition::Port(port) => spec.then(Match::eq(Field::TcpDport, *port)),
        Condition::To(cidr) => {
            let field = if cidr.addr().is_ipv4() { Field::Ip4Daddr } else { Field::Ip6Daddr };
            spec.then(Match::eq(field, Value::Prefix(cidr.addr(), cidr.prefix_len())))
        }
        Condition::Tcp => spec.then(Match::eq(Field::L4Proto, IPPROTO_TCP)),
    };
    let spec = match rule.action {
        Action::Return => spec.then(Verdict::Return),
        Action::Redirect(port) => spec.then(Stmt::Redirect(Some(port))),
    };
    spec.comment(rule.why)
}

fn explain(error: nlink::Error) -> CaptureError {
    const ENOENT: i32 = 2;
    const ENOPROTOOPT: i32 = 92;
    if error.is_permission_denied() {
        return CaptureError::NotPermitted;
    }
    match error.errno().map(i32::abs) {
        Some(ENOENT | ENOPROTOOPT) => CaptureError::Unsupported(error),
        _ if error.is_not_supported() => CaptureError::Unsupported(error),
        _ => CaptureError::Kernel(error),
    }
}
