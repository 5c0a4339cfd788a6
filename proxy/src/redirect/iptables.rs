//! A [`Plan`] for a kernel without nf_tables, carried out by the programs `iptables-restore` and `ip6tables-restore` of
//! either kind: one restore per family, in which each table changes at once. Where there is no ip6tables, or no IPv6,
//! IPv4 alone is captured.
//!
//! Nothing protects these rules from others, and nobody tells of changes; they outlive the proxy, so that after a crash
//! what they capture is refused.

use std::io;

use super::error::CaptureError;
use super::iptables_text::{Family, removal, restore};
use super::nftables::{Applied, Standing};
use super::plan::Plan;
use super::program;

/// The programs to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iptables {
    kind: Kind,
    has_v6: bool,
}

/// Which rules the programs write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Those of ip_tables, for kernels without nf_tables.
    Legacy,
    /// nf_tables' own, in iptables' language.
    Nft,
    /// Whichever the system has under the plain name.
    Default,
}

impl Iptables {
    /// The programs of this machine that fit a kernel without nf_tables.
    ///
    /// # Errors
    /// Where there are none.
    pub fn find() -> Result<Iptables, CaptureError> {
        let legacy = Iptables::of(Kind::Legacy);
        if legacy.is_ok() { legacy } else { Iptables::of(Kind::Default) }
    }

    /// Those of one kind.
    ///
    /// # Errors
    /// Where they are not installed, or may not be used.
    pub fn of(kind: Kind) -> Result<Iptables, CaptureError> {
        let mut found = Iptables { kind, has_v6: false };
        found.save(Family::V4)?;
        found.has_v6 = std::path::Path::new("/proc/sys/net/ipv6").exists() && found.save(Family::V6).is_ok();
        Ok(found)
    }

    /// As [`super::Capture::apply`].
    ///
    /// # Errors
    /// What the programs say.
    pub fn apply(&self, plan: &Plan) -> Result<Applied, CaptureError> {
        let mut applied = Applied::AsItWas;
        for family in self.families() {
            let saved = self.save(family)?;
            let Some(input) = restore(plan, family, &saved) else { continue };
            self.load(family, &input)?;
            applied = if removal(&saved).is_some() { Applied::Replaced } else { Applied::New };
        }
        Ok(applied)
    }

    /// Takes the rules away. False where there were none.
    ///
    /// # Errors
    /// What the programs say.
    pub fn remove(&self) -> Result<bool, CaptureError> {
        let mut removed = false;
        for family in self.families() {
            if let Some(input) = removal(&self.save(family)?) {
                self.load(family, &input)?;
                removed = true;
            }
        }
        Ok(removed)
    }

    /// As [`super::Capture::standing`].
    ///
    /// # Errors
    /// What the programs say.
    pub fn standing(&self, plan: &Plan) -> Result<Standing, CaptureError> {
        let (mut any, mut all, mut rules) = (false, true, 0);
        for family in self.families() {
            let saved = self.save(family)?;
            any |= removal(&saved).is_some();
            all &= restore(plan, family, &saved).is_none();
            rules += saved.lines().filter(|line| line.contains("ISTHMUS")).count();
        }
        let wanted = plan.outbound.len() + plan.inbound.len() + plan.udp.len();
        Ok(match (any, all) {
            (false, _) => Standing::Absent,
            (true, true) => Standing::InForce { owned: false, persistent: true },
            (true, false) => Standing::Differs { owned: false, rules, wanted },
        })
    }

    fn families(&self) -> impl Iterator<Item = Family> {
        [Some(Family::V4), Some(Family::V6).filter(|_| self.has_v6)].into_iter().flatten()
    }

    fn program(&self, family: Family, what: &str) -> String {
        let family = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        match self.kind {
            Kind::Legacy => format!("{family}-legacy-{what}"),
            Kind::Nft => format!("{family}-nft-{what}"),
            Kind::Default => format!("{family}-{what}"),
        }
    }

    /// Both tables that we write to, as they are.
    fn save(&self, family: Family) -> Result<String, CaptureError> {
        let program = self.program(family, "save");
        let nat = run(&program, &["-t", "nat"], "")?;
        Ok(nat + &run(&program, &["-t", "filter"], "")?)
    }

    fn load(&self, family: Family, input: &str) -> Result<(), CaptureError> {
        // Others may hold the lock; they should not for long.
        run(&self.program(family, "restore"), &["--noflush", "-w", "5"], input).map(|_| ())
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, CaptureError> {
    let ended = program::run(program, arguments, input).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => CaptureError::NotPermitted,
        _ => CaptureError::NoProgram { program: program.to_owned(), error },
    })?;
    if ended.success {
        return Ok(ended.output);
    }
    if ended.complaint.contains("Permission denied") || ended.complaint.contains("must be root") {
        return Err(CaptureError::NotPermitted);
    }
    Err(CaptureError::Program { program: program.to_owned(), said: ended.complaint.trim().to_owned() })
}
