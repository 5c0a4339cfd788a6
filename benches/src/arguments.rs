//! The command line.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Parser, ValueEnum};

use crate::peers::Peer;
use crate::rounds::Workload;
use crate::workloads;

/// Measures the mesh side by side with other proxies.
///
/// Programs are found on PATH or by the environment variables ENVOY, HAPROXY, NGINX, WRK, ISTHMUS, ZTUNNEL (built with its
/// feature `testing`) and LINKERD2_PROXY (which needs nft, too); those that are missing are named and left out. It needs
/// root, or a machine that lets users make namespaces.
#[derive(Debug, Parser)]
#[command(name = "bench-peers", version)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a table for RESULTS.md.
    #[arg(long)]
    markdown: bool,
    /// Measure only these; ratios need `isthmus` among them.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Peer>,
    /// Measure only these workloads.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = workload_names(), default_value = EACH)]
    workload: Vec<String>,
    /// How often each contender has its turn; five or more for numbers that are shown to anyone.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds of load in each turn.
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) secs: u32,
}

/// All workloads.
const EACH: &str = "all";

fn workload_names() -> PossibleValuesParser {
    PossibleValuesParser::new(workloads::ALL.iter().map(|workload| workload.name).chain([EACH]))
}

/// For whom the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    Json,
    Markdown,
    Table,
}

impl Arguments {
    pub(crate) fn output(&self) -> Output {
        match (self.json, self.markdown) {
            (true, _) => Output::Json,
            (_, true) => Output::Markdown,
            _ => Output::Table,
        }
    }

    pub(crate) fn contenders(&self) -> Vec<Peer> {
        Peer::value_variants().iter().copied().filter(|peer| self.only.is_empty() || self.only.contains(peer)).collect()
    }

    /// True when contenders were asked for by name: then a missing one is a failure.
    pub(crate) fn names_contenders(&self) -> bool {
        !self.only.is_empty()
    }

    pub(crate) fn workloads(&self) -> Vec<&'static Workload> {
        let asked = |workload: &&Workload| self.workload.iter().any(|name| name == workload.name || name == EACH);
        workloads::ALL.iter().copied().filter(asked).collect()
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.secs.into())
    }
}
