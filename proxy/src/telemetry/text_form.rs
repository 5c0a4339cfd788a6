//! A page as text: Prometheus' own form, version 0.0.4, and OpenMetrics 1.0.0, which also tells traces (exemplars).

use std::fmt::Write as _;

use super::cells::BUCKETS_US;
use super::exemplar::Exemplar;
use super::page::{Durations, Number, Page, Sample, Samples};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Prometheus,
    OpenMetrics,
}

pub(super) fn write(page: &Page, form: Text) -> String {
    let mut text = String::with_capacity(64 * 1024);
    page.families.iter().for_each(|family| write_family(&mut text, family, form));
    if form == Text::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn write_family(text: &mut String, of: &Samples, form: Text) {
    let (name, kind, help) = (of.family.name, of.family.kind, of.family.help);
    // OpenMetrics names a family without the suffix that its samples bear.
    let (base, kind) = match (form, kind) {
        (Text::OpenMetrics, "counter") => (name.strip_suffix("_total").unwrap_or(name), kind),
        (Text::OpenMetrics, "gauge") => match name.strip_suffix("_info") {
            Some(base) => (base, "info"),
            None => (name, kind),
        },
        _ => (name, kind),
    };
    let _ = match form {
        Text::Prometheus => writeln!(text, "# HELP {base} {help}\n# TYPE {base} {kind}"),
        Text::OpenMetrics => writeln!(text, "# TYPE {base} {kind}\n# HELP {base} {help}"),
    };
    for sample in &of.samples {
        match &sample.value {
            Number::Whole(count) => line(text, name, sample, None, &format_args!("{count}"), None),
            Number::Real(number) => line(text, name, sample, None, &format_args!("{number}"), None),
            Number::Durations(durations) => write_durations(text, name, sample, durations, form),
        }
    }
}

fn write_durations(text: &mut String, name: &str, sample: &Sample, durations: &Durations, form: Text) {
    let (bucket, mut total) = (format!("{name}_bucket"), 0);
    for (at, count) in durations.counts.iter().enumerate() {
        total += count;
        let bound = BUCKETS_US.get(at).map_or_else(|| "+Inf".to_owned(), |us| bound(*us, form));
        let exemplar = durations.exemplars[at].filter(|_| form == Text::OpenMetrics);
        line(text, &bucket, sample, Some(&bound), &format_args!("{total}"), exemplar);
    }
    line(text, &format!("{name}_sum"), sample, None, &seconds(durations.sum_us), None);
    line(text, &format!("{name}_count"), sample, None, &format_args!("{total}"), None);
}

fn line(
    text: &mut String,
    name: &str,
    sample: &Sample,
    bound: Option<&str>,
    value: &dyn std::fmt::Display,
    exemplar: Option<(Exemplar, u64)>,
) {
    text.push_str(name);
    let labels = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut labels = labels.chain(bound.map(|bound| ("le", bound))).peekable();
    let mut before = '{';
    let some = labels.peek().is_some();
    for (name, label) in labels {
        let _ = write!(text, "{before}{name}=\"");
        escaped(text, label);
        text.push('"');
        before = ',';
    }
    if some {
        text.push('}');
    }
    let _ = write!(text, " {value}");
    if let Some((exemplar, us)) = exemplar {
        let (at, trace) = (exemplar.at_ms, exemplar.trace);
        let _ = write!(text, " # {{trace_id=\"{trace}\"}} {} {}.{:03}", seconds(us), at / 1_000, at % 1_000);
    }
    text.push('\n');
}

/// Label values are words of ours, names that were validated, and numbers; what a version or a resource says may be
/// anything.
fn escaped(text: &mut String, label: &str) {
    for c in label.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// OpenMetrics has `1.0` where Prometheus has `1`.
fn bound(us: u64, form: Text) -> String {
    let text = seconds(us);
    if form == Text::OpenMetrics && !text.contains('.') { text + ".0" } else { text }
}

fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
