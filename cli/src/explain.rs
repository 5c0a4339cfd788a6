//! `isthmus explain`: why was it, or would it be, refused; whose rule is that; and what would allow it. A decision's id is
//! looked up where the proxies report; a question is answered by the proxy's own engine, with or without a control plane.

mod ask;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use isthmus_proto::flows::v1::Refusal;
use serde_json::{Value, json};

use crate::bypass;
use crate::connect::{self, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, when};

/// Say which policy and rule decides, who owns it, and the YAML that would allow it.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus explain 6a1f0c2b9d3e4f57                        a refusal, by the id its caller was told\n  \
    isthmus explain --from web --to shop/orders --method GET --path /orders/1\n  \
    isthmus explain --from shop/web --to shop/orders --port 80 --json\n  \
    isthmus explain --from web --to shop/orders -f policies/  offline, on files alone\n\n\
    EXIT STATUS: 0 allowed, 4 refused, 1 cannot be told or failed")]
pub(crate) struct Args {
    /// A decision's id: `isthmus-decision` in a refused answer, `decision` in the log.
    #[arg(value_name = "ID", conflicts_with_all = ["from", "to"], required_unless_present = "to")]
    id: Option<String>,
    /// The caller: SERVICE-ACCOUNT, NAMESPACE/SERVICE-ACCOUNT, a SPIFFE id, or an IP address for one without identity.
    #[arg(long, value_name = "CALLER", requires = "to")]
    from: Option<String>,
    /// The callee: SERVICE or NAMESPACE/SERVICE.
    #[arg(long, value_name = "SERVICE", requires = "from")]
    to: Option<String>,
    /// The service's port, or the app's. Without it: the service's only one.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// A request header, `name: value`. May be repeated.
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,
    /// The caller's address, where it is not that of its workload.
    #[arg(long, value_name = "IP")]
    from_address: Option<IpAddr>,
    /// The bytes come in plain, past the caller's sidecar.
    #[arg(long, conflicts_with = "tls")]
    plaintext: bool,
    /// They come in the app's own TLS of this version.
    #[arg(long, value_name = "VERSION", value_parser = ["1.0", "1.1", "1.2", "1.3"])]
    tls: Option<String>,
    /// Answer from these files alone, without a control plane. May be repeated.
    #[arg(short, long = "file", value_name = "FILE|DIR|-", requires = "to")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    let answered = match &args.id {
        Some(id) => connect::block_on(by_id(id, format, operator)),
        None => connect::block_on(ask::run(&args, format, operator)),
    };
    finish(answered, format)
}

async fn by_id(id: &str, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut policy = Policy::connect(operator).await?;
    let request = wire::FindRefusalRequest { id: id.to_owned() };
    let found = policy.call(async |client| client.find_refusal(request).await).await.map_err(|failure| {
        let advice = "proxies report within a second or two, and a refusal is kept as long as flows are (35 days): check \
            the id, or ask again in a moment";
        failure.with_advice(advice)
    })?;
    let refusal = found.refusal.unwrap_or_default();
    let open = bypass::of_service(&bypass::open(&mut policy).await?, &refusal.service);
    let answer = || {
        let mut told = refusal_json(&refusal, &found.workload, &found.owner);
        told["bypasses"] = bypass::json_of(&open);
        told
    };
    match format {
        Format::Json => println!("{}", answer()),
        Format::Yaml => println!("{:#}", answer()),
        Format::Table => {
            print!("{}", refusal_text(&refusal, &found.workload, &found.owner));
            open.iter().for_each(|open| println!("since then: {}", bypass::text(open)));
        }
    }
    if refusal.enforced { Err(Failure::answered_no()) } else { Ok(()) }
}

fn refusal_text(r: &Refusal, workload: &str, owner: &str) -> String {
    let what = if r.enforced { "refused" } else { "passed, and would be refused if it were enforced" };
    let mut text = format!("{what}: {}\n", r.because);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<9} {value}\n"));
        }
    };
    let caller = if r.identity.is_empty() { "no mesh identity" } else { &r.identity };
    line("when", when(r.at_unix_ms));
    line("caller", format!("{caller}, from {}", r.address));
    match r.destination.as_str() {
        "" => line("callee", format!("{} port {}, workload {workload}", or(&r.service, "no service"), r.port)),
        destination => line("outside", format!("{destination}, by workload {workload}")),
    }
    line("request", format!("{} {}", r.method, r.path).trim().to_owned());
    line("policy", r.policy.clone());
    line("rule", if r.rule == 0 { String::new() } else { format!("number {} of its list", r.rule) });
    line("owner", owner_text(&r.policy, owner));
    match (r.service.as_str(), r.would_allow.as_str(), r.destination.as_str()) {
        ("", "", "") if r.reason == "not-allowed" => {
            text.push_str("no rule can name this port: no Service declares it; declare it, then allow it there\n");
        }
        _ => text.push_str(&would_allow_text(&r.would_allow, &r.reason)),
    }
    text
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// Who is to be asked.
fn owner_text(policy: &str, owner: &str) -> String {
    match (policy, owner) {
        ("", _) => String::new(),
        (_, "") => "nobody is named (annotation mesh.isthmus.dev/owner, or label owner)".to_owned(),
        (_, owner) => owner.to_owned(),
    }
}

fn would_allow_text(yaml: &str, reason: &str) -> String {
    if !yaml.is_empty() {
        return format!("this would allow it, and nothing else:\n{yaml}");
    }
    let advice = match reason {
        "denied-by-rule" => "no allow can help: a deny wins; the rule's author has to narrow it",
        "plaintext" => "no rule can help: the caller needs a sidecar, or the port's transport to be Permissive",
        "mesh-only" => "no rule can help: the caller needs a sidecar, or the port's transport to be HttpsOnly",
        "tls-version" => "no rule can help: the caller needs a newer TLS, or the port a lower minTlsVersion",
        "tls-not-declared" => "no rule can help: the port has to be declared TLS (appProtocol)",
        "not-allowed" => {
            "no rule can name it: a caller without identity has only its CIDR, and some methods and paths cannot be written \
            in a rule"
        }
        _ => return String::new(),
    };
    format!("{advice}\n")
}

fn refusal_json(r: &Refusal, workload: &str, owner: &str) -> Value {
    json!({
        "ok": true,
        "decision": r.id, "verdict": if r.enforced { "refused" } else { "would-refuse" },
        "reason": r.reason, "because": r.because, "atUnixMs": r.at_unix_ms,
        "caller": r.identity, "callerAddress": r.address,
        "destination": (!r.destination.is_empty()).then_some(&r.destination),
        "workload": workload, "service": r.service, "port": r.port, "method": r.method, "path": r.path,
        "policy": r.policy, "rule": r.rule.checked_sub(1), "owner": owner,
        "wouldAllow": (!r.would_allow.is_empty()).then_some(&r.would_allow),
    })
}
