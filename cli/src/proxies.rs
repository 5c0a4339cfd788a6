//! `isthmus get proxies`: who is connected, and whose answer to the last push is still missing.

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::connect::{Admin, Policy};
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, or_dash, table, when};
use crate::policy::bypass_text;

pub(crate) async fn show(name: Option<&str>, operator: &OperatorArgs, format: Format) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let answer = admin.call(async |client| client.list_proxies(wire::ListProxiesRequest {}).await).await?;
    let mut proxies = answer.proxies;
    if let Some(name) = name {
        proxies.retain(|proxy| proxy.workload == name);
        if proxies.is_empty() {
            let what = format!("no proxy of workload {name} has ever connected");
            return Err(Failure::new(what, "name it NAMESPACE/NAME, as `isthmus get proxies` does"));
        }
    }
    let mut policy = Policy::connect(operator).await?;
    let open = policy.call(async |client| client.list_bypasses(wire::ListBypassesRequest {}).await).await?.bypasses;
    if format == Format::Table {
        open.iter().for_each(|bypass| println!("{}", bypass_text(bypass)));
    }
    match format {
        Format::Json => println!("{}", json!({ "proxies": proxies.iter().map(proxy_json).collect::<Vec<_>>() })),
        // JSON is YAML; proxies are no resources and have no document to show.
        Format::Yaml => println!("{:#}", json!({ "proxies": proxies.iter().map(proxy_json).collect::<Vec<_>>() })),
        Format::Table if proxies.is_empty() => {
            eprintln!("no proxy has connected yet; `isthmus token create` lets one join")
        }
        Format::Table => print!("{}", proxies_table(&proxies)),
    }
    Ok(())
}

fn proxies_table(proxies: &[wire::Proxy]) -> String {
    let row = |proxy: &wire::Proxy| {
        vec![
            proxy.workload.clone(),
            state(proxy).to_owned(),
            or_dash(&proxy.build_version),
            format!("{}/{}", proxy.acknowledged_version, proxy.sent_version),
            when(proxy.last_seen_unix_ms),
            when(proxy.certificate_not_after_unix_ms),
            or_dash(&proxy.last_error),
        ]
    };
    let rows: Vec<_> = proxies.iter().map(row).collect();
    table(&["WORKLOAD", "STATE", "BUILD", "ACK/SENT", "LAST SEEN", "CERTIFICATE UNTIL", "ERROR"], &rows)
}

fn state(proxy: &wire::Proxy) -> &'static str {
    match (proxy.connected, proxy.acknowledged_version == proxy.sent_version) {
        (false, _) => "offline",
        (true, true) => "in force",
        (true, false) => "behind",
    }
}

fn proxy_json(proxy: &wire::Proxy) -> Value {
    json!({
        "workload": proxy.workload,
        "spiffeId": proxy.spiffe_id,
        "buildVersion": proxy.build_version,
        "connected": proxy.connected,
        "sentVersion": proxy.sent_version,
        "acknowledgedVersion": proxy.acknowledged_version,
        "lastError": proxy.last_error,
        "lastSeenUnixMs": proxy.last_seen_unix_ms,
        "certificateSerial": proxy.certificate_serial,
        "certificateNotAfterUnixMs": proxy.certificate_not_after_unix_ms,
    })
}
