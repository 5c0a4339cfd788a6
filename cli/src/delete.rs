//! `isthmus delete`: by name, or everything that a file names.

use std::path::PathBuf;
use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use crate::connect::{self, Admin};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};
use crate::problems::{Problem, changes_json, changes_text};
use crate::{documents, get, kinds};

/// Delete resources: all that are named or none.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus delete servicepolicy shop/orders\n  \
    isthmus delete workload vm-7 -n shop --dry-run\n  \
    isthmus delete -f old-policies/")]
pub(crate) struct Args {
    /// MeshConfig, Site, Link, Workload, Service, Endpoints, EndpointSlice, ServicePolicy or TrafficPolicy.
    #[arg(required_unless_present = "file", requires = "names")]
    kind: Option<String>,
    /// NAME with -n, or NAMESPACE/NAME. May be repeated.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Of names without one; with -f, of documents without one.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// Delete what this file, directory or stdin (`-`) names. Only kind, namespace and name are read.
    #[arg(short, long, value_name = "FILE|DIR|-", conflicts_with_all = ["kind", "names"])]
    file: Vec<PathBuf>,
    /// Say what would go; change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(delete(args, operator)), format)
}

async fn delete(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let resources = match &args.kind {
        Some(kind) => by_name(kind, &args.names, args.namespace.as_deref())?,
        None => in_files(&args.file, args.namespace.as_deref())?,
    };
    let mut admin = Admin::connect(operator).await?;
    let request = wire::DeleteRequest { resources, dry_run: args.dry_run };
    let answer = admin.call(async |client| client.delete(request).await).await?;
    if !answer.problems.is_empty() {
        return Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect()));
    }
    match args.output.format() {
        Format::Json => {
            let changes = changes_json(&answer.changes);
            println!(
                "{}",
                json!({ "ok": true, "dryRun": args.dry_run, "revision": answer.revision, "changes": changes })
            );
        }
        Format::Table | Format::Yaml => print!("{}", changes_text(&answer.changes, args.dry_run)),
    }
    Ok(())
}

fn by_name(kind: &str, names: &[String], namespace: Option<&str>) -> Result<Vec<wire::ResourceRef>, Failure> {
    let kind = kinds::parse(kind).map_err(|e| Failure::usage(e, "isthmus delete --help"))?;
    names.iter().map(|name| get::reference(kind, name, namespace)).collect()
}

fn in_files(files: &[PathBuf], namespace: Option<&str>) -> Result<Vec<wire::ResourceRef>, Failure> {
    let mut resources = Vec::new();
    for document in documents::read(files)? {
        resources.extend(documents::named(&document, namespace)?);
    }
    Ok(resources)
}
