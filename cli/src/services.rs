//! `isthmus services` and `isthmus endpoints`: services as their callers see them.

use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::bypass;
use crate::connect::{self, Admin, Policy};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};

/// Show services as their callers see them: addresses, endpoints, and how many proxies use them.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  isthmus services\n  isthmus services -n shop --json")]
pub(crate) struct Args {
    /// Only this namespace.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Show the endpoints of a service, also those that are withdrawn since their proxy is gone; and of those without a sidecar
/// how the proxies that use them find them.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  isthmus endpoints shop/orders\n  isthmus endpoints shop/orders --json")]
pub(crate) struct EndpointsArgs {
    /// NAMESPACE/NAME
    service: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(services(args, operator)), format)
}

pub(crate) fn run_endpoints(args: EndpointsArgs, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(endpoints(args, operator)), format)
}

async fn services(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let request = wire::ListServicesRequest { namespace: args.namespace.unwrap_or_default(), name: String::new() };
    let answer = admin.call(async |client| client.list_services(request).await).await?;
    let open = bypass::open(&mut Policy::connect(operator).await?).await?;
    let name = |service: &wire::ServiceView| format!("{}/{}", service.namespace, service.name);
    let bypassed = |service: &wire::ServiceView| !bypass::of_service(&open, &name(service)).is_empty();
    match args.output.format() {
        Format::Json | Format::Yaml => {
            let one = |service: &wire::ServiceView| {
                let mut told = service_json(service);
                told["bypassed"] = bypassed(service).into();
                told
            };
            let services: Vec<Value> = answer.services.iter().map(one).collect();
            let bypasses = bypass::json_of(&open);
            println!("{:#}", json!({ "revision": answer.revision, "services": services, "bypasses": bypasses }));
        }
        Format::Table if answer.services.is_empty() => eprintln!("there is no Service"),
        Format::Table => {
            let concerned = open.iter().filter(|open| {
                answer
                    .services
                    .iter()
                    .any(|service| !bypass::of_service(std::slice::from_ref(open), &name(service)).is_empty())
            });
            concerned.for_each(|open| println!("{}", bypass::text(open)));
            print!("{}", services_table(&answer.services));
        }
    }
    Ok(())
}

async fn endpoints(args: EndpointsArgs, operator: &OperatorArgs) -> Result<(), Failure> {
    let Some((namespace, name)) = args.service.split_once('/') else {
        return Err(Failure::usage(format!("`{}` has no namespace", args.service), "NAMESPACE/NAME"));
    };
    let mut admin = Admin::connect(operator).await?;
    let request = wire::ListServicesRequest { namespace: namespace.to_owned(), name: name.to_owned() };
    let answer = admin.call(async |client| client.list_services(request).await).await?;
    let each: Vec<&wire::EndpointView> = answer.services.iter().flat_map(|service| &service.each).collect();
    match args.output.format() {
        Format::Json | Format::Yaml => {
            let list: Vec<Value> = each.into_iter().map(endpoint_json).collect();
            println!("{:#}", json!({ "service": args.service, "revision": answer.revision, "endpoints": list }));
        }
        Format::Table if each.is_empty() => eprintln!("{} has no endpoints", args.service),
        Format::Table => print!("{}", endpoints_table(&each)),
    }
    Ok(())
}

fn services_table(services: &[wire::ServiceView]) -> String {
    let row = |service: &wire::ServiceView| {
        vec![
            format!("{}/{}", service.namespace, service.name),
            or_dash(&service.vips.join(",")),
            or_dash(&service.ports.join(",")),
            service.endpoints.to_string(),
            service.away.to_string(),
            service.users.to_string(),
        ]
    };
    let rows: Vec<_> = services.iter().map(row).collect();
    table(&["SERVICE", "ADDRESSES", "PORTS", "ENDPOINTS", "AWAY", "USED BY"], &rows)
}

fn endpoints_table(endpoints: &[&wire::EndpointView]) -> String {
    // Where nobody probes, there is nothing to say.
    let probed = endpoints.iter().any(|endpoint| !endpoint.health.is_empty());
    let row = |endpoint: &&wire::EndpointView| {
        let mut row = vec![
            endpoint.ip.clone(),
            or_dash(&endpoint.site),
            or_dash(&endpoint.workload),
            endpoint.state.clone(),
            or_dash(&endpoint.ports.join(",")),
        ];
        let health: Vec<String> = endpoint.health.iter().map(in_words).collect();
        row.extend(probed.then(|| or_dash(&health.join("; "))));
        row
    };
    let rows: Vec<_> = endpoints.iter().map(row).collect();
    let mut head = vec!["ADDRESS", "SITE", "WORKLOAD", "STATE", "PORTS"];
    head.extend(probed.then_some("HEALTH"));
    table(&head, &rows)
}

/// One port, as the proxies that use it find it.
fn in_words(health: &wire::PortHealth) -> String {
    let (port, since, asked) = (health.port, when(health.since_unix_ms), health.up + health.down);
    if health.down == 0 {
        return format!("{port} up for {asked} {} since {since}", proxies(asked));
    }
    let by = health.down_by.iter().map(|down| format!("{} ({})", down.workload, or_dash(&down.reason)));
    let mut by = by.collect::<Vec<_>>().join(", ");
    let unnamed = (health.down as usize).saturating_sub(health.down_by.len());
    if unnamed > 0 && !by.is_empty() {
        by = format!("{by} and {unnamed} more");
    }
    let by = if by.is_empty() { by } else { format!(": {by}") };
    format!("{port} down for {} of {asked} {} since {since}{by}", health.down, proxies(asked))
}

fn proxies(count: u32) -> &'static str {
    if count == 1 { "proxy" } else { "proxies" }
}

pub(crate) fn service_json(service: &wire::ServiceView) -> Value {
    json!({
        "namespace": service.namespace,
        "name": service.name,
        "vips": service.vips,
        "hostnames": service.hostnames,
        "ports": service.ports,
        "endpoints": service.endpoints,
        "away": service.away,
        "usedBy": service.users,
    })
}

fn endpoint_json(endpoint: &wire::EndpointView) -> Value {
    json!({
        "ip": endpoint.ip,
        "site": endpoint.site,
        "workload": endpoint.workload,
        "state": endpoint.state,
        "ports": endpoint.ports,
        "health": endpoint.health.iter().map(health_json).collect::<Vec<_>>(),
    })
}

fn health_json(health: &wire::PortHealth) -> Value {
    let by = |down: &wire::DownBy| json!({ "workload": down.workload, "sinceUnixMs": down.since_unix_ms, "reason": down.reason });
    json!({
        "port": health.port,
        "up": health.up,
        "down": health.down,
        "sinceUnixMs": health.since_unix_ms,
        "downBy": health.down_by.iter().map(by).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
#[path = "services_test.rs"]
mod services_test;
