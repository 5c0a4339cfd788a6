//! `isthmus get`: what is stored, and which proxies have it.

use std::process::ExitCode;

use clap::ValueEnum;
use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::apply;
use crate::connect::{self, Admin};
use crate::failure::{Failure, finish};
use crate::kinds::{self, Kind};
use crate::operator::OperatorArgs;
use crate::output::{Format, or_dash, table, when};
use crate::problems::{change_word, resource_json, resource_name};
use crate::proxies;

/// Show resources, or the proxies.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus get policies                    every ServicePolicy\n  \
    isthmus get workload orders -n shop -o yaml\n  \
    isthmus get workload shop/orders -o yaml\n  \
    isthmus get all -o json\n  \
    isthmus get policies -l team=a -o wide  and who changed each when, and in how many proxies it is in force\n  \
    isthmus get services -n shop -w         and every change from now on, until interrupted\n  \
    isthmus get policies -w -o wide         and in how many proxies each comes into force, as it does\n  \
    isthmus get proxies                     who is connected, and what is in force where")]
pub(crate) struct Args {
    /// MeshConfig, Site, Link, Workload, Service, Endpoints, EndpointSlice, ServicePolicy, TrafficPolicy; `proxies`; or `all`.
    kind: String,
    /// NAME with -n, or NAMESPACE/NAME. Without it: a list.
    name: Option<String>,
    /// Only this namespace.
    #[arg(short, long, value_name = "NS", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Every namespace, which is also what happens without -n.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// The present state, then every change, until interrupted. With `-o json`: one object per line.
    #[arg(short, long, conflicts_with = "name")]
    watch: bool,
    /// Only what bears these labels.
    #[arg(short = 'l', long, value_name = "NAME=VALUE,...", conflicts_with_all = ["name", "watch"], value_parser = apply::labels)]
    selector: Option<apply::Labels>,
    #[command(flatten)]
    output: Output,
}

/// As everywhere, and `wide`.
#[derive(clap::Args, Debug, Clone, Copy)]
struct Output {
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Shape,
    /// The same as `-o json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// Aligned columns.
    Table,
    /// More columns: who changed it when, and in how many proxies it is in force.
    Wide,
    Yaml,
    Json,
}

impl Output {
    fn format(self) -> Format {
        match self.output {
            _ if self.json => Format::Json,
            Shape::Table | Shape::Wide => Format::Table,
            Shape::Yaml => Format::Yaml,
            Shape::Json => Format::Json,
        }
    }

    fn wide(self) -> bool {
        self.output == Shape::Wide
    }

    /// A table does not show it, and it takes the control plane time.
    fn with_status(self) -> bool {
        self.json || self.output != Shape::Table
    }
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(get(args, operator)), format)
}

async fn get(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let format = args.output.format();
    match args.kind.to_ascii_lowercase().as_str() {
        "proxy" | "proxies" => return proxies::show(args.name.as_deref(), operator, format).await,
        "all" if args.watch => return watch(None, &args, operator).await,
        "all" if args.name.is_none() => return list(None, &args, operator).await,
        _ => {}
    }
    let kind = kinds::parse(&args.kind).map_err(|e| Failure::usage(e, "isthmus get --help"))?;
    if args.watch {
        return watch(Some(kind), &args, operator).await;
    }
    match &args.name {
        Some(name) => one(kind, name, &args, operator).await,
        None => list(Some(kind), &args, operator).await,
    }
}

async fn one(kind: Kind, name: &str, args: &Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let resource = reference(kind, name, args.namespace.as_deref())?;
    let mut admin = Admin::connect(operator).await?;
    let request = wire::GetRequest { resource: Some(resource.clone()), status: args.output.with_status() };
    let answer = admin.call(async |client| client.get(request).await).await?;
    answer.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let found = answer.resource;
    let found =
        found.ok_or_else(|| Failure::new(format!("there is no {}", resource_name(&resource)), "isthmus get all"))?;
    match args.output.format() {
        Format::Json => println!("{}", stored_json(&found)),
        Format::Yaml => print!("{}", found.yaml),
        Format::Table => print!("{}", stored_table(std::slice::from_ref(&found), args.output.wide())),
    }
    Ok(())
}

async fn list(kind: Option<Kind>, args: &Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let request = wire::ListRequest {
        kind: kind.map(|k| k.name.to_owned()).unwrap_or_default(),
        namespace: args.namespace.clone().unwrap_or_default(),
        labels: args.selector.clone().unwrap_or_default(),
        status: args.output.with_status(),
    };
    let answer = admin.call(async |client| client.list(request).await).await?;
    answer.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    match args.output.format() {
        Format::Json => {
            let items: Vec<Value> = answer.resources.iter().map(stored_json).collect();
            let warnings = &answer.warnings;
            println!("{}", json!({ "revision": answer.revision, "resources": items, "warnings": warnings }));
        }
        Format::Yaml => {
            let texts: Vec<&str> = answer.resources.iter().map(|r| r.yaml.trim_end()).collect();
            println!("{}", texts.join("\n---\n"));
        }
        Format::Table if answer.resources.is_empty() => eprintln!("nothing is stored that matches"),
        Format::Table => print!("{}", stored_table(&answer.resources, args.output.wide())),
    }
    Ok(())
}

/// Until the control plane or the person ends it.
async fn watch(kind: Option<Kind>, args: &Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut admin = Admin::connect(operator).await?;
    let request = wire::WatchRequest {
        kind: kind.map(|k| k.name.to_owned()).unwrap_or_default(),
        namespace: args.namespace.clone().unwrap_or_default(),
        status: args.output.with_status(),
    };
    let mut events = admin.call(async |client| client.watch(request).await).await?;
    let mut synced = false;
    while let Some(event) = events.message().await.map_err(|status| connect::refused(&status))? {
        let Some(stored) = event.resource.as_ref().filter(|_| !event.synced) else {
            synced |= event.synced;
            continue;
        };
        // What was there before is neither created nor changed now.
        let word = if synced { change_word(event.kind()) } else { "present" };
        match args.output.format() {
            Format::Json => println!("{}", json!({ "change": word, "resource": stored_json(stored) })),
            Format::Yaml => println!("# {word}\n{}---", stored.yaml),
            Format::Table => {
                let name = stored.resource.as_ref().map(resource_name).unwrap_or_default();
                let in_force = format!("{}/{} in force", stored.in_force, stored.affected);
                let in_force = if args.output.wide() && event.kind() != wire::ChangeKind::Deleted {
                    in_force
                } else {
                    String::new()
                };
                println!("{}", format!("{word:<9} {:>8}  {name}  {in_force}", event.revision).trim_end());
            }
        }
    }
    Ok(())
}

/// `orders` with `-n shop`, or `shop/orders`; a namespace where the kind has one, and none where it has not.
pub(crate) fn reference(kind: Kind, name: &str, namespace: Option<&str>) -> Result<wire::ResourceRef, Failure> {
    let (inline, name) = match name.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, name),
    };
    if inline.is_some() && namespace.is_some_and(|n| Some(n) != inline) {
        return Err(Failure::usage("two different namespaces are given", "use -n NS or NS/NAME"));
    }
    let namespace = match (kind.namespaced, inline.or(namespace)) {
        (true, Some(namespace)) => namespace,
        (true, None) => {
            let what = format!("{} `{name}`: the namespace is missing", kind.name);
            return Err(Failure::usage(what, format!("NAMESPACE/{name}, or -n NAMESPACE")));
        }
        (false, Some(_)) => {
            return Err(Failure::usage(format!("a {} has no namespace", kind.name), format!("{} {name}", kind.name)));
        }
        (false, None) => "",
    };
    Ok(wire::ResourceRef { kind: kind.name.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() })
}

fn stored_table(resources: &[wire::StoredResource], wide: bool) -> String {
    let row = |stored: &wire::StoredResource| {
        let at = stored.resource.clone().unwrap_or_default();
        let mut row =
            vec![at.kind, or_dash(&at.namespace), at.name, stored.revision.to_string(), or_dash(&stored.origin)];
        if wide {
            let in_force = format!("{}/{}", stored.in_force, stored.affected);
            row.extend([in_force, when(stored.changed_unix_ms), or_dash(&stored.changed_by)]);
        }
        row
    };
    let rows: Vec<_> = resources.iter().map(row).collect();
    let mut head = vec!["KIND", "NAMESPACE", "NAME", "REVISION", "ORIGIN"];
    if wide {
        head.extend(["IN FORCE", "CHANGED", "BY"]);
    }
    table(&head, &rows)
}

fn stored_json(stored: &wire::StoredResource) -> Value {
    let document = serde_json::from_str(&stored.json).unwrap_or(Value::Null);
    json!({
        "resource": stored.resource.as_ref().map(resource_json),
        "revision": stored.revision,
        "origin": stored.origin,
        "document": document,
    })
}

#[cfg(test)]
#[path = "get_test.rs"]
mod get_test;
