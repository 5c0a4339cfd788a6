//! Prometheus text, written: `# HELP`, `# TYPE`, then the samples of that family and no other.

use std::fmt::Write as _;

use super::cells::BUCKETS_US;
use super::names::Family;

/// A page that grows by samples.
pub(super) struct Page {
    pub(super) text: String,
}

impl Page {
    pub(super) fn family(&mut self, family: Family) {
        let Family { name, kind, help } = family;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn single(&mut self, family: Family, value: impl std::fmt::Display) {
        self.family(family);
        self.sample(family, &[], value);
    }

    pub(super) fn sample(&mut self, family: Family, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.suffixed(family, "", labels, value);
    }

    // Label values are words of ours or numbers: nothing in them needs escaping.
    pub(super) fn suffixed(
        &mut self,
        family: Family,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        self.text.push_str(family.name);
        self.text.push_str(suffix);
        for (at, (name, label)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{name}=\"{label}\"");
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }

    /// A histogram of microseconds: how many are in each bucket (the last one is +Inf), and their sum.
    pub(super) fn histogram(&mut self, family: Family, labels: &[(&str, &str)], counts: &[u64], sum_us: u64) {
        let mut total = 0;
        for (at, count) in counts.iter().enumerate() {
            total += count;
            let bound = BUCKETS_US.get(at).map_or_else(|| "+Inf".to_owned(), |us| seconds(*us));
            let mut with_bound = labels.to_vec();
            with_bound.push(("le", &bound));
            self.suffixed(family, "_bucket", &with_bound, total);
        }
        self.suffixed(family, "_sum", labels, seconds(sum_us));
        self.suffixed(family, "_count", labels, total);
    }
}

fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
