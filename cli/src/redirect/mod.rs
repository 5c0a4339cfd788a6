//! `isthmus redirect`: capture by hand, without a proxy's configuration: to see what would be captured, for an init
//! container, or to try it on a machine that one reaches by SSH. What a running proxy captures belongs to it, and is
//! refused here.

mod scope;
mod trial;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use isthmus_proxy::redirect::{Applied, Capture, CaptureError, Iptables, Plan, Protection, Standing, iptables_inputs};
use serde_json::json;

use crate::failure::{Failure, finish};
use crate::output::{Format, OutputArgs};
use crate::span;
use scope::ScopeArgs;

/// See, apply, check and remove the rules that send this machine's traffic to the sidecar.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus redirect plan --inbound-ports 8080                      the rules, and nothing is changed\n  \
    sudo isthmus redirect apply --inbound-ports 8080 --confirm 60s  undone in 60 s unless confirmed\n  \
    sudo isthmus redirect confirm                                   from another session\n  \
    sudo isthmus redirect check --inbound-ports 8080                0: in force, 1: not\n  \
    sudo isthmus redirect remove\n\n\
    Nothing outlives a reboot. A running proxy applies its own rules, by the capture section of its configuration.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Print the rules; change nothing. Needs no rights.
    #[command(after_help = "EXAMPLES:\n  isthmus redirect plan --inbound-all --exclude-inbound-ports 22,9100\n  \
        isthmus redirect plan --backend iptables")]
    Plan {
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        backend: BackendArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Put the rules in force, in one transaction, in place of those of an earlier apply.
    #[command(after_help = "EXAMPLES:\n  sudo isthmus redirect apply --inbound-ports 8080\n  \
        sudo isthmus redirect apply --inbound-ports 8080 --confirm 60s\n\n\
        With --confirm a process of its own waits; it outlives this terminal and your SSH session. Without\n\
        `isthmus redirect confirm` in time, on Ctrl-C, or if it is killed, the rules are undone.\n\n\
        EXIT STATUS: 0 in force (and confirmed), 1 refused or undone, 2 wrong usage, 3 not confirmed in time and undone")]
    Apply {
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        backend: BackendArgs,
        /// Undo everything after this time unless `isthmus redirect confirm` came.
        #[arg(long, value_name = "DURATION", value_parser = span::parse)]
        confirm: Option<Duration>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Keep what `apply --confirm` applied.
    #[command(after_help = "EXAMPLES:\n  sudo isthmus redirect confirm")]
    Confirm {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Compare the rules in force with the plan; change nothing.
    #[command(after_help = "EXAMPLES:\n  sudo isthmus redirect check --inbound-ports 8080 --json\n\n\
        EXIT STATUS: 0 exactly the plan is in force, 1 nothing or something else is")]
    Check {
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        backend: BackendArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Take the rules away, also those that a crashed proxy left.
    #[command(after_help = "EXAMPLES:\n  sudo isthmus redirect remove")]
    Remove {
        #[command(flatten)]
        backend: BackendArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// The process that waits for the confirmation.
    #[command(hide = true, name = "__trial")]
    Trial {
        #[command(flatten)]
        scope: ScopeArgs,
        #[command(flatten)]
        backend: BackendArgs,
        #[arg(long, value_parser = span::parse)]
        confirm: Duration,
    },
}

#[derive(clap::Args, Debug, Clone, Copy)]
struct BackendArgs {
    /// What carries the rules. Default: nftables, and iptables where the kernel has no nf_tables.
    #[arg(long, value_enum, value_name = "BACKEND")]
    backend: Option<Backend>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// Over netlink; needs no program.
    Nftables,
    /// By iptables-restore and ip6tables-restore.
    Iptables,
}

/// Rules, by whichever backend.
enum Rules {
    Nftables(Capture),
    Iptables(Iptables),
}

pub(crate) fn run(args: Args) -> ExitCode {
    match args.what {
        What::Plan { scope, backend, output } => finish(plan(&scope, backend, output.format()), output.format()),
        What::Apply { scope, backend, confirm: None, output } => {
            finish(apply(&scope, backend, output.format()), output.format())
        }
        What::Apply { scope, confirm: Some(within), output, .. } => {
            finish(trial::begin(&scope, within, output.format()), output.format())
        }
        What::Confirm { output } => finish(trial::confirm(output.format()), output.format()),
        What::Check { scope, backend, output } => finish(check(&scope, backend, output.format()), output.format()),
        What::Remove { backend, output } => finish(remove(backend, output.format()), output.format()),
        What::Trial { scope, backend, confirm } => trial::run(&scope, backend, confirm),
    }
}

/// After a proxy that is gone: nothing of ours stays in the kernel, by whichever backend.
pub(crate) fn clear() -> Result<(), Failure> {
    match Rules::open(None, Protection::Owned).and_then(|mut rules| rules.remove()) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(error.to_string(), "isthmus redirect remove, then `isthmus leave` again")),
    }
}

fn plan(scope: &ScopeArgs, backend: BackendArgs, format: Format) -> Result<(), Failure> {
    let plan = scope.plan()?;
    let [v4, v6] = iptables_inputs(&plan);
    match (format, backend.backend) {
        (Format::Json, Some(Backend::Iptables)) => println!("{}", json!({ "iptables": v4, "ip6tables": v6 })),
        (Format::Json, _) => println!("{}", json!({ "nftables": plan.to_string() })),
        (_, Some(Backend::Iptables)) => print!("# iptables-restore --noflush\n{v4}# ip6tables-restore --noflush\n{v6}"),
        _ => print!("{plan}"),
    }
    Ok(())
}

fn apply(scope: &ScopeArgs, backend: BackendArgs, format: Format) -> Result<(), Failure> {
    let plan = scope.plan()?;
    let (rules, applied) = Rules::establish(backend.backend, &plan).map_err(failed)?;
    let (word, text) = match applied {
        Applied::AsItWas => ("asItWas", "was in force already"),
        Applied::New => ("new", "in force"),
        Applied::Replaced => ("replaced", "in force, in place of the earlier rules"),
    };
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "applied": word, "backend": rules.name() })),
        _ => println!("{text} ({}): {} rules", rules.name(), rules_of(&plan)),
    }
    Ok(())
}

fn check(scope: &ScopeArgs, backend: BackendArgs, format: Format) -> Result<(), Failure> {
    let plan = scope.plan()?;
    let mut rules = Rules::open(backend.backend, Protection::Owned).map_err(failed)?;
    let standing = rules.standing(&plan).map_err(failed)?;
    let (ok, word, text) = match standing {
        Standing::InForce { owned: true, .. } => (true, "inForce", "in force, and owned by a running proxy".to_owned()),
        Standing::InForce { owned: false, .. } => (true, "inForce", "in force; no proxy owns the rules".to_owned()),
        Standing::Absent => (false, "absent", "nothing is captured".to_owned()),
        Standing::Differs { owned, rules, wanted } => {
            let whose = if owned { "a running proxy's" } else { "nobody's" };
            (false, "differs", format!("other rules are in force: {rules} of {whose}, the plan has {wanted}"))
        }
    };
    match format {
        Format::Json => println!("{}", json!({ "ok": ok, "standing": word, "backend": rules.name(), "text": text })),
        _ if ok => println!("{text}"),
        _ => {}
    }
    match (ok, format) {
        (true, _) => Ok(()),
        (false, Format::Json) => Err(Failure::plain(text).reported()),
        (false, _) => Err(Failure::new(text, "isthmus redirect apply, with the same flags")),
    }
}

fn remove(backend: BackendArgs, format: Format) -> Result<(), Failure> {
    let mut rules = Rules::open(backend.backend, Protection::Owned).map_err(failed)?;
    let removed = rules.remove().map_err(failed)?;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "removed": removed })),
        _ if removed => println!("removed; nothing is captured any more"),
        _ => println!("nothing was captured"),
    }
    Ok(())
}

impl Rules {
    fn open(backend: Option<Backend>, protection: Protection) -> Result<Rules, CaptureError> {
        match backend {
            Some(Backend::Iptables) => Iptables::find().map(Rules::Iptables),
            Some(Backend::Nftables) => Capture::open(protection).map(Rules::Nftables),
            None => match Capture::open(protection).and_then(|mut capture| capture.generation().map(|_| capture)) {
                Err(CaptureError::Unsupported(_)) => Iptables::find().map(Rules::Iptables),
                capture => capture.map(Rules::Nftables),
            },
        }
    }

    /// Opens and applies. A kernel may have nf_tables and lack what our rules need of it; then iptables is tried too.
    fn apply(backend: Option<Backend>, protection: Protection, plan: &Plan) -> Result<(Rules, Applied), CaptureError> {
        let mut rules = Rules::open(backend, protection)?;
        match rules.put(plan) {
            Err(CaptureError::Unsupported(_)) if backend.is_none() => {
                let mut rules = Rules::Iptables(Iptables::find()?);
                let applied = rules.put(plan)?;
                Ok((rules, applied))
            }
            applied => Ok((rules, applied?)),
        }
    }

    /// Applies what is to stay. Where it is there already it is not taken over, as a proxy would.
    fn establish(backend: Option<Backend>, plan: &Plan) -> Result<(Rules, Applied), CaptureError> {
        let mut rules = Rules::open(backend, Protection::Owned)?;
        match rules.standing(plan) {
            Ok(Standing::InForce { owned: false, .. }) => Ok((rules, Applied::AsItWas)),
            _ => Rules::apply(backend, Protection::Owned, plan),
        }
    }

    fn standing(&mut self, plan: &Plan) -> Result<Standing, CaptureError> {
        match self {
            Rules::Nftables(capture) => capture.standing(plan),
            Rules::Iptables(iptables) => iptables.standing(plan),
        }
    }

    fn put(&mut self, plan: &Plan) -> Result<Applied, CaptureError> {
        match self {
            Rules::Nftables(capture) => capture.apply(plan),
            Rules::Iptables(iptables) => iptables.apply(plan),
        }
    }

    fn remove(&mut self) -> Result<bool, CaptureError> {
        match self {
            Rules::Nftables(capture) => capture.remove(),
            Rules::Iptables(iptables) => iptables.remove(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Rules::Nftables(_) => "nftables",
            Rules::Iptables(_) => "iptables",
        }
    }
}

fn rules_of(plan: &Plan) -> usize {
    plan.outbound.len() + plan.inbound.len() + plan.udp.len()
}

fn failed(error: CaptureError) -> Failure {
    match error {
        CaptureError::NotPermitted => Failure::new("not permitted to look at or change the rules", "run it with sudo"),
        CaptureError::AlreadyCaptured => Failure::new(
            "a running proxy (or a trial that waits for its confirmation) owns the rules",
            "stop it first: systemctl stop isthmus-proxy",
        ),
        error => Failure::plain(error.to_string()),
    }
}
