//! `isthmus check`: whether the mesh is as it should be, seen from the control plane. Each line is one thing that was
//! looked at; what is wrong is named with who.

use std::process::ExitCode;

use isthmus_certs::{Clock as _, SystemClock, skew_in_words, span_in_words};
use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Admin, Authority};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};

/// Certificates bear 5 minutes; well before that an operator should know.
const SKEW_MS: u64 = 30_000;
/// A root or an issuing CA of the company's own PKI takes people to replace.
const CA_ENDS_MS: i64 = 60 * 86_400_000;
/// Names beyond this are only counted.
const NAMED: usize = 8;
/// Nothing is broken, and somebody should look.
const WARNINGS: u8 = 4;

/// Look at the whole mesh: control plane, store, clocks, certificates, CA, audit log, proxies in sync, versions.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus check\n  \
    isthmus check --json\n  \
    isthmus check || isthmus certs --trouble\n\n\
    EXIT STATUS: 0 all is well, 1 something is broken or cannot be reached, 2 wrong usage, 3 timed out, 4 warnings")]
pub(crate) struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Ok,
    Warning,
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    what: &'static str,
    mark: Mark,
    said: String,
}

/// What the control plane answered.
struct Seen {
    here_ms: i64,
    certificates: wire::ListCertificatesResponse,
    proxies: Vec<wire::Proxy>,
    /// The control plane's own version.
    build: String,
    rotation: wire::RotateResponse,
    audit: wire::VerifyAuditResponse,
    revision: u64,
    /// Why it cannot be read.
    store: Option<String>,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    let findings = match connect::block_on(look(operator)) {
        Ok(seen) => findings(&seen),
        Err(failure) => return finish(Err(failure), format),
    };
    match format {
        Format::Table => findings.iter().for_each(|f| println!("{:<8} {:<13} {}", f.mark.word(), f.what, f.said)),
        Format::Json => println!("{}", as_json(&findings)),
        Format::Yaml => println!("{:#}", as_json(&findings)),
    }
    match findings.iter().map(|finding| finding.mark).max() {
        Some(Mark::Broken) => ExitCode::FAILURE,
        Some(Mark::Warning) => ExitCode::from(WARNINGS),
        Some(Mark::Ok) | None => ExitCode::SUCCESS,
    }
}

/// The same as one JSON object, for a support bundle.
pub(crate) async fn report(operator: &OperatorArgs) -> Result<serde_json::Value, Failure> {
    Ok(as_json(&findings(&look(operator).await?)))
}

async fn look(operator: &OperatorArgs) -> Result<Seen, Failure> {
    let (mut admin, mut authority) = (Admin::connect(operator).await?, Authority::connect(operator).await?);
    let request = wire::ListCertificatesRequest {};
    let certificates = authority.call(async |client| client.list_certificates(request).await).await?;
    let here_ms = SystemClock.now_ms();
    let listed = admin.call(async |client| client.list_proxies(wire::ListProxiesRequest {}).await).await?;
    let (proxies, build) = (listed.proxies, listed.build_version);
    let request = wire::RotateRequest { step: wire::RotationStep::Unspecified.into(), force: false };
    let rotation = authority.call(async |client| client.rotate(request).await).await?;
    let request = wire::VerifyAuditRequest::default();
    let audit = authority.call(async |client| client.verify_audit(request).await).await?;
    let request = wire::ListRequest { kind: "MeshConfig".to_owned(), ..Default::default() };
    let revision = admin.call(async |client| client.list(request).await).await?.revision;
    let store = admin.call(async |client| client.list_join_tokens(wire::ListJoinTokensRequest {}).await).await;
    let store = store.err().map(|failure| failure.text());
    Ok(Seen { here_ms, certificates, proxies, build, rotation, audit, revision, store })
}

fn findings(seen: &Seen) -> Vec<Finding> {
    vec![
        control_plane(seen),
        store(seen),
        clock(seen),
        certificates(seen),
        identities(seen),
        authorities(seen),
        audit(seen),
        sync(seen),
        versions(seen),
    ]
}

fn ok(what: &'static str, said: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Ok, said: said.into() }
}

fn warning(what: &'static str, said: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Warning, said: said.into() }
}

fn broken(what: &'static str, said: impl Into<String>) -> Finding {
    Finding { what, mark: Mark::Broken, said: said.into() }
}

fn control_plane(seen: &Seen) -> Finding {
    let connected = seen.proxies.iter().filter(|proxy| proxy.connected).count();
    ok("control plane", format!("up, revision {}, {connected} proxies connected", seen.revision))
}

fn store(seen: &Seen) -> Finding {
    match (&seen.store, seen.audit.unwritable.as_str()) {
        (Some(why), _) => broken("store", why.trim()),
        (None, "") => ok("store", "reads, and nothing failed to be written"),
        (None, why) => broken("store", format!("reads, and cannot be written: {why}")),
    }
}

fn clock(seen: &Seen) -> Finding {
    let ours = seen.here_ms - seen.certificates.server_time_unix_ms;
    let off = |c: &&wire::Certificate| c.connected && c.clock_skew_ms.unsigned_abs() > SKEW_MS;
    let mut skewed: Vec<String> = Vec::new();
    if ours.unsigned_abs() > SKEW_MS {
        skewed.push(format!("here: {}", skew_in_words(ours)));
    }
    let theirs = seen.certificates.certificates.iter().filter(off);
    skewed.extend(theirs.map(|c| format!("{}: {}", c.workload, skew_in_words(c.clock_skew_ms))));
    match skewed.len() {
        0 => ok("clocks", "within 30 s of the control plane's"),
        _ => warning("clocks", some_of(&skewed)),
    }
}

fn certificates(seen: &Seen) -> Finding {
    let list = &seen.certificates.certificates;
    let late = |c: &&wire::Certificate| c.troubles.iter().any(|trouble| trouble.contains("was not renewed"));
    let late: Vec<String> =
        list.iter().filter(late).map(|c| format!("{}: {}", name(c), c.troubles.join(", "))).collect();
    let now = seen.certificates.server_time_unix_ms;
    match (late.len(), list.iter().map(|c| c.not_after_unix_ms).min()) {
        (0, Some(first)) => {
            let first = span_in_words((first - now).max(0).unsigned_abs());
            ok("certificates", format!("{} in use, none late; the first ends in {first}", list.len()))
        }
        (0, None) => ok("certificates", "none in use"),
        _ => warning("certificates", some_of(&late)),
    }
}

/// Whoever is there twice, or was issued what nobody here knows of.
fn identities(seen: &Seen) -> Finding {
    let odd = |trouble: &&String| trouble.starts_with("two machines") || trouble.starts_with("not on record");
    let list = seen.certificates.certificates.iter();
    let troubles: Vec<String> =
        list.flat_map(|c| c.troubles.iter().filter(odd).map(|trouble| format!("{}: {trouble}", name(c)))).collect();
    match troubles.is_empty() {
        true => ok("identities", "each at one machine, each on record"),
        false => warning("identities", some_of(&troubles)),
    }
}

fn name(certificate: &wire::Certificate) -> &str {
    if certificate.workload.is_empty() { &certificate.spiffe_id } else { &certificate.workload }
}

fn authorities(seen: &Seen) -> Finding {
    let now = seen.certificates.server_time_unix_ms;
    let mut trouble = Vec::new();
    for root in &seen.rotation.roots {
        let short: String = root.fingerprint.chars().take(8).collect();
        let ends = [("root", root.not_after_unix_ms), ("issuing CA", root.issuing_not_after_unix_ms)];
        for (what, at) in ends.into_iter().filter(|(_, at)| root.role == "active" && at - now < CA_ENDS_MS) {
            trouble.push(format!("{what} {short} ends in {}", span_in_words((at - now).max(0).unsigned_abs())));
        }
    }
    match (trouble.is_empty(), seen.rotation.phase.as_str()) {
        (false, _) => warning("CA", some_of(&trouble)),
        (true, "settled") => ok("CA", "one root, no change under way"),
        (true, phase) => {
            let waiting = if seen.rotation.not_yet.is_empty() {
                String::new()
            } else {
                format!("; {}", some_of(&seen.rotation.not_yet))
            };
            warning("CA", format!("a change of roots is under way ({phase}): {}{waiting}", seen.rotation.next))
        }
    }
}

fn audit(seen: &Seen) -> Finding {
    match seen.audit.fault.as_str() {
        "" => ok("audit log", format!("{} lines, none changed or missing", seen.audit.lines)),
        fault => broken("audit log", fault),
    }
}

fn sync(seen: &Seen) -> Finding {
    let mut trouble = Vec::new();
    for proxy in &seen.proxies {
        let behind = proxy.acknowledged_version < proxy.sent_version;
        if !proxy.last_error.is_empty() {
            trouble.push(format!("{} refused a push: {}", proxy.workload, proxy.last_error));
        } else if !proxy.connected {
            let since =
                span_in_words((seen.certificates.server_time_unix_ms - proxy.last_seen_unix_ms).max(0).unsigned_abs());
            trouble.push(format!("{} offline for {since}", proxy.workload));
        } else if behind {
            let (acked, sent) = (proxy.acknowledged_version, proxy.sent_version);
            trouble.push(format!("{} has acknowledged {acked} of {sent}", proxy.workload));
        }
    }
    match trouble.len() {
        0 => ok("proxies", format!("{} known, all in sync", seen.proxies.len())),
        bad => warning("proxies", format!("{bad} of {} not in sync: {}", seen.proxies.len(), some_of(&trouble))),
    }
}

fn versions(seen: &Seen) -> Finding {
    let here = env!("CARGO_PKG_VERSION");
    let others = seen.proxies.iter().filter(|proxy| proxy.connected && proxy.build_version != here);
    let mut others: Vec<String> = others.map(|proxy| format!("{} {}", proxy.workload, proxy.build_version)).collect();
    if !seen.build.is_empty() && seen.build != here {
        others.insert(0, format!("control plane {}", seen.build));
    }
    match others.len() {
        0 => ok("versions", format!("all {here}, as this command")),
        _ => warning("versions", format!("other than {here}: {}", some_of(&others))),
    }
}

fn some_of(all: &[String]) -> String {
    let shown = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

impl Mark {
    fn word(self) -> &'static str {
        match self {
            Mark::Ok => "ok",
            Mark::Warning => "warning",
            Mark::Broken => "broken",
        }
    }
}

fn as_json(findings: &[Finding]) -> serde_json::Value {
    let worst = findings.iter().map(|finding| finding.mark).max().unwrap_or(Mark::Ok).word();
    let one = |f: &Finding| json!({ "what": f.what, "mark": f.mark.word(), "said": f.said });
    json!({ "status": worst, "findings": findings.iter().map(one).collect::<Vec<_>>() })
}

#[cfg(test)]
#[path = "check_test.rs"]
mod check_test;
