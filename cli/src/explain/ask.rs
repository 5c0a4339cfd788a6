//! A question about traffic that may never have been: made into facts, and answered for each workload behind the service.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use isthmus_certs::{Clock, SpiffeId, SystemClock};
use isthmus_control::validate::field::nearest;
use isthmus_proto::admin::v1::ActiveBypass;
use isthmus_proxy::inbound::probe;
use isthmus_proxy::state::AppProtocol;
use isthmus_proxy::state::policy::{Arrived, HttpFacts};
use serde_json::{Value, json};

use super::{Args, owner_text, would_allow_text};
use crate::bypass;
use crate::connect::Policy;
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::Format;
use crate::policy::flows::tls_version;
use crate::policy::judge::{Asked, AskedHttp, Found, Verdict, judge};
use crate::policy::views::{Callee, Views};

/// The answer for one workload.
struct Answer<'a> {
    callee: &'a Callee,
    port: u16,
    enforced: bool,
    /// Break-glass is why it is not enforced.
    bypasses: Vec<ActiveBypass>,
    verdict: Verdict,
    probe: Probed,
}

/// Whether it is a probe of the platform, which no rule and no transport is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Probed {
    No,
    Request,
    /// As long as nothing is said on it.
    Silence,
}

pub(super) async fn run(args: &Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    check(args)?;
    let views = match args.file.as_slice() {
        [] => Views::stored(&mut Policy::connect(operator).await?, &[], "", "").await?,
        files => Views::of_files(files)?,
    };
    let (from, to) = (args.from.as_deref().unwrap_or_default(), args.to.as_deref().unwrap_or_default());
    let service = find_service(&views, to)?;
    let namespace = service.split_once('/').map_or("", |(namespace, _)| namespace);
    let (peer, ip) = caller(&views, from, namespace, args.from_address)?;
    let now_ms = SystemClock.now_ms();
    let mut answers = Vec::new();
    for callee in views.callees.iter() {
        let Some(port) = app_port(&views, &service, callee, args.port)? else { continue };
        let asked = Asked {
            peer: peer.clone(),
            ip,
            port,
            arrived: arrived(args, callee, port, &peer),
            http: http(args, callee, port)?,
            now_ms,
        };
        let enforced = callee.port(port).standing.is_enforced(views.enforcement, || now_ms);
        let bypasses = bypass::of_service(&views.bypasses, &service);
        let probe = probed(callee, &asked);
        let verdict = match probe {
            Probed::Request => Verdict::Allowed(as_probe()),
            Probed::Silence | Probed::No => judge(&views, callee, &asked),
        };
        answers.push(Answer { callee, port, enforced, bypasses, verdict, probe });
    }
    // The strictest of those behind the service, since any of them may be called.
    answers.sort_by_key(|answer| match &answer.verdict {
        Verdict::Refused(_) => 0,
        Verdict::CannotTell(_) => 1,
        Verdict::Allowed(_) => 2,
    });
    let Some(answer) = answers.first() else {
        let what = format!("no workload with a sidecar is behind {service} at that port");
        return Err(Failure::new(what, "its transport is kept by the callers' sidecars; name another --port"));
    };
    match format {
        Format::Json => println!("{}", answer.json(&views, &service)),
        Format::Yaml => println!("{:#}", answer.json(&views, &service)),
        Format::Table => print!("{}", answer.text(&views, &service)),
    }
    match (&answer.verdict, answer.enforced) {
        (Verdict::Allowed(_), _) | (Verdict::Refused(_), false) => Ok(()),
        (Verdict::Refused(_), true) => Err(Failure::answered_no()),
        (Verdict::CannotTell(missing), _) => {
            let missing = missing.iter().cloned().collect::<Vec<_>>().join(", ");
            let failure = Failure::new(
                format!("it depends on the {missing}"),
                "say more with --method, --path, --host, --header, --from-address",
            );
            Err(if format == Format::Table { failure } else { failure.reported() })
        }
    }
}

/// As the proxy tells them: by where they come from and by what they ask, byte by byte.
fn probed(callee: &Callee, asked: &Asked) -> Probed {
    let (Some(ip), None, Arrived::Plain) = (asked.ip, &asked.peer, asked.arrived) else { return Probed::No };
    let port = callee.port(asked.port);
    let said = asked.http.as_ref().filter(|http| http.method.is_some() || http.path.is_some());
    let Some(http) = said else {
        return if probe::may_connect(port, ip) { Probed::Silence } else { Probed::No };
    };
    let headers = http.headers.clone().unwrap_or_default();
    let facts = HttpFacts {
        host: http.host.as_deref(),
        method: http.method.as_deref().unwrap_or("GET"),
        path: http.path.as_deref().unwrap_or("/"),
        headers: &headers,
    };
    if probe::serves(port, ip, &facts) { Probed::Request } else { Probed::No }
}

fn as_probe() -> Found {
    let sentence = "a probe of the platform (MeshConfig spec.probes), which a ServicePolicy's spec.probes serves";
    Found { reason: None, sentence: sentence.to_owned(), policy: None, rule: None, would_allow: None, audit: None }
}

/// Slips that the engine would take at their word.
fn check(args: &Args) -> Result<(), Failure> {
    if let Some(path) = args.path.as_ref().filter(|path| !path.starts_with('/')) {
        return Err(Failure::usage(format!("--path {path}: a path begins with `/`"), format!("--path /{path}")));
    }
    if let Some(method) = args.method.as_ref().filter(|method| method.bytes().any(|b| b.is_ascii_lowercase())) {
        eprintln!("note: methods are told apart by case; did you mean `{}`?", method.to_ascii_uppercase());
    }
    Ok(())
}

/// `orders` where there is only one of that name.
fn find_service(views: &Views, text: &str) -> Result<String, Failure> {
    let all = views.services.iter().map(|service| format!("{}/{}", service.namespace, service.name));
    let named: Vec<String> = all.filter(|name| name == text || name.rsplit('/').next() == Some(text)).collect();
    match named.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let known: Vec<String> =
                views.services.iter().flat_map(|s| [format!("{}/{}", s.namespace, s.name), s.name.clone()]).collect();
            let what = format!("there is no service `{text}`{}", did_you_mean(text, &known));
            Err(Failure::new(what, "`isthmus services` lists them"))
        }
        several => Err(Failure::new(format!("`{text}` may be {}", several.join(" or ")), "write NAMESPACE/SERVICE")),
    }
}

/// Who calls, and from where: its workload's address, if it has only one.
fn caller(
    views: &Views,
    text: &str,
    namespace: &str,
    address: Option<IpAddr>,
) -> Result<(Option<SpiffeId>, Option<IpAddr>), Failure> {
    if let Ok(ip) = text.parse() {
        return Ok((None, Some(address.unwrap_or(ip))));
    }
    let wrong = |e: isthmus_certs::IdError| Failure::usage(format!("--from {text}: {e}"), "isthmus explain --help");
    let id = match text.strip_prefix("spiffe://") {
        Some(_) => SpiffeId::parse(text).map_err(wrong)?,
        None => {
            let (namespace, account) = text.split_once('/').unwrap_or((namespace, text));
            SpiffeId::workload(&views.trust_domain, namespace, account).map_err(wrong)?
        }
    };
    let addresses: Vec<IpAddr> = views.callers(&id).flat_map(|workload| workload.addresses.iter().copied()).collect();
    if views.callers(&id).next().is_none() {
        let names = |of: &Callee| {
            SpiffeId::parse(&of.identity).ok().map(|id| format!("{}/{}", id.namespace(), id.service_account()))
        };
        let known: Vec<String> = views.callees.iter().filter_map(names).collect();
        let named = format!("{}/{}", id.namespace(), id.service_account());
        eprintln!("note: no workload has the identity {id}{}", did_you_mean(&named, &known));
    }
    let only = match addresses.as_slice() {
        [first, rest @ ..] if rest.iter().all(|ip| views.site_of(*ip) == views.site_of(*first)) => Some(*first),
        _ => None,
    };
    Ok((Some(id), address.or(only)))
}

fn did_you_mean(text: &str, known: &[String]) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    nearest(text, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

/// The app's port at this workload; none if the service does not have it.
fn app_port(views: &Views, service: &str, callee: &Callee, asked: Option<u16>) -> Result<Option<u16>, Failure> {
    let told = views.services.iter().find(|told| format!("{}/{}", told.namespace, told.name) == service);
    let endpoints = told.map(|told| told.endpoints.as_slice()).unwrap_or_default();
    let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.workload == callee.workload) else {
        return Ok(None);
    };
    let target = |port: u32| endpoint.target_ports.get(&port).and_then(|target| u16::try_from(*target).ok());
    match (asked, endpoint.target_ports.len()) {
        (Some(port), _) if endpoint.target_ports.values().any(|target| *target == u32::from(port)) => Ok(Some(port)),
        // A probe's port may be one that no service has.
        (Some(port), _) if !callee.port(port).probes.is_empty() => Ok(Some(port)),
        (Some(port), _) => match target(port.into()) {
            Some(target) => Ok(Some(target)),
            None => {
                let ports: Vec<String> =
                    endpoint.target_ports.iter().map(|(of, app)| format!("{of} (the app's {app})")).collect();
                Err(Failure::usage(
                    format!("{service} has no port {port}, but {}", ports.join(", ")),
                    "name one of them",
                ))
            }
        },
        (None, 1) => Ok(endpoint.target_ports.keys().next().and_then(|port| target(*port))),
        (None, _) => {
            let ports: Vec<String> = endpoint.target_ports.keys().map(ToString::to_string).collect();
            Err(Failure::usage(format!("{service} has the ports {}", ports.join(", ")), "name one with --port"))
        }
    }
}

fn arrived(args: &Args, callee: &Callee, port: u16, peer: &Option<SpiffeId>) -> Arrived {
    match (&args.tls, args.plaintext || peer.is_none()) {
        (Some(version), _) => Arrived::AppTls { version: tls_version(version), declared: callee.is_tls(port) },
        (None, true) => Arrived::Plain,
        (None, false) => Arrived::Mesh,
    }
}

/// None where the port is no HTTP and nothing of a request was said.
fn http(args: &Args, callee: &Callee, port: u16) -> Result<Option<AskedHttp>, Failure> {
    let said = args.method.is_some() || args.path.is_some() || args.host.is_some() || !args.header.is_empty();
    let is_http = matches!(callee.port(port).protocol, AppProtocol::Http | AppProtocol::Http2 | AppProtocol::Detect);
    if !(said || is_http) {
        return Ok(None);
    }
    let mut headers = HeaderMap::new();
    for header in &args.header {
        let wrong = || Failure::usage(format!("--header {header}: that is no header"), "write it `name: value`");
        let (name, value) = header.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
    }
    let headers = (said && !args.header.is_empty()).then_some(headers);
    Ok(Some(AskedHttp { method: args.method.clone(), path: args.path.clone(), host: args.host.clone(), headers }))
}

impl Answer<'_> {
    fn word(&self) -> &'static str {
        match (&self.verdict, self.enforced) {
            (Verdict::Allowed(_), _) => "allowed",
            (Verdict::Refused(_), true) => "refused",
            (Verdict::Refused(_), false) => "would-refuse",
            (Verdict::CannotTell(_), _) => "cannot-tell",
        }
    }

    fn found(&self) -> Option<&Found> {
        match &self.verdict {
            Verdict::Allowed(found) | Verdict::Refused(found) => Some(found),
            Verdict::CannotTell(_) => None,
        }
    }

    fn text(&self, views: &Views, service: &str) -> String {
        let Some(found) = self.found() else { return "cannot tell\n".to_owned() };
        let mut text = match self.word() {
            "allowed" if self.probe == Probed::Request => format!("allowed: {}\n", found.sentence),
            "allowed" => "allowed\n".to_owned(),
            "refused" => format!("refused: {}\n", found.sentence),
            _ if self.bypasses.is_empty() => {
                format!("passes, since it is only observed; enforced it would be refused: {}\n", found.sentence)
            }
            _ => format!("passes, since a bypass is open; without it, it would be refused: {}\n", found.sentence),
        };
        self.bypasses.iter().for_each(|open| text.push_str(&format!("  {}\n", bypass::text(open))));
        let mut line = |name: &str, value: String| {
            if !value.is_empty() {
                text.push_str(&format!("  {name:<9} {value}\n"));
            }
        };
        let list = if matches!(self.verdict, Verdict::Allowed(_)) { "allow" } else { "deny" };
        let policy = found.policy.as_deref().unwrap_or_default();
        let owner = views.owner(policy);
        line("callee", format!("{service}, the app's port {} at workload {}", self.port, self.callee.workload));
        line("policy", policy.to_owned());
        line("rule", found.rule.map(|rule| format!("spec.{list}[{rule}]")).unwrap_or_default());
        line("owner", owner_text(policy, owner.map(|o| o.owner.as_str()).unwrap_or_default()));
        line("from", owner.map(|o| o.origin.clone()).unwrap_or_default());
        if let Some((reason, policy)) = &found.audit {
            line("audit", format!("{} would refuse it ({reason})", policy.as_deref().unwrap_or("a policy")));
        }
        if self.probe == Probed::Silence {
            text.push_str("a connection from there on which nothing is said is served: a probe of the platform\n");
        }
        if let Verdict::Refused(found) = &self.verdict {
            let yaml = found.would_allow.as_deref().unwrap_or_default();
            text.push_str(&would_allow_text(yaml, found.reason.map_or("", |reason| reason.word())));
        }
        text
    }

    fn json(&self, views: &Views, service: &str) -> Value {
        let missing = match &self.verdict {
            Verdict::CannotTell(missing) => missing.iter().cloned().collect::<Vec<_>>(),
            _ => Vec::new(),
        };
        let found = self.found();
        let owner = found.and_then(|found| views.owner(found.policy.as_deref()?));
        json!({
            "ok": self.found().is_some(),
            "verdict": self.word(),
            "enforced": self.enforced,
            "reason": found.and_then(|found| found.reason).map(|reason| reason.word()),
            "because": found.map(|found| found.sentence.as_str()),
            "service": service, "workload": self.callee.workload, "port": self.port,
            "policy": found.and_then(|found| found.policy.as_deref()),
            "rule": found.and_then(|found| found.rule),
            "owner": owner.map(|owner| owner.owner.as_str()),
            "origin": owner.map(|owner| owner.origin.as_str()),
            "wouldAllow": found.and_then(|found| found.would_allow.as_deref()),
            "bypasses": bypass::json_of(&self.bypasses),
            "missing": missing,
            "probe": match self.probe {
                Probed::No => None,
                Probed::Request => Some("request"),
                Probed::Silence => Some("silence"),
            },
        })
    }
}
