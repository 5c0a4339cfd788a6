//! `isthmus schema`: what a resource may say, for editors and for an API server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use isthmus_control::validate::schema::{self, Schema};

use crate::failure::{Failure, finish};
use crate::kinds;
use crate::output::Format;

/// Print the JSON Schema of a kind, an example with all its fields, or its CustomResourceDefinition.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus schema servicepolicy             the JSON Schema\n  \
    isthmus schema servicepolicy --example   a document with every field\n  \
    isthmus schema workload --crd | kubectl apply -f -\n  \
    isthmus schema --write deploy            all of them, as they lie in deploy/schemas and deploy/crds\n\n\
    For an editor with the YAML language server, as the first line of a file:\n  \
    # yaml-language-server: $schema=deploy/schemas/all.json")]
pub(crate) struct Args {
    /// A kind, as `isthmus get` takes it.
    #[arg(required_unless_present = "write")]
    kind: Option<String>,
    /// A document with every field of the kind.
    #[arg(long, conflicts_with = "write")]
    example: bool,
    /// The CustomResourceDefinition for Kubernetes.
    #[arg(long, conflicts_with_all = ["write", "example"])]
    crd: bool,
    /// Write every schema and definition below this directory.
    #[arg(long, value_name = "DIR", conflicts_with = "kind")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    finish(print(&args), Format::Table)
}

fn print(args: &Args) -> Result<(), Failure> {
    if let Some(dir) = &args.write {
        return write(dir);
    }
    let kind = kinds::parse(args.kind.as_deref().unwrap_or_default());
    let kind = kind.map_err(|e| Failure::usage(e, "isthmus schema --help"))?;
    if args.example {
        print!("{}", schema::example(kind.name));
        return Ok(());
    }
    let found = schema::all().map_err(Failure::plain)?.into_iter().find(|schema| schema.kind == kind.name);
    let found = found.ok_or_else(|| Failure::plain(format!("there is no schema of {}", kind.name)))?;
    match args.crd {
        true => crd(&found),
        false => {
            println!("{:#}", found.json);
            Ok(())
        }
    }
}

fn crd(found: &Schema) -> Result<(), Failure> {
    if !found.ours {
        return Err(Failure::plain(format!("{} is Kubernetes' own; its API server knows it", found.kind)));
    }
    let yaml = serde_saphyr::to_string(&found.crd()).map_err(|e| Failure::plain(e.to_string()))?;
    print!("{yaml}");
    Ok(())
}

fn write(dir: &Path) -> Result<(), Failure> {
    for (name, text) in schema::files().map_err(Failure::plain)? {
        let path = dir.join(name);
        let failed = |e: std::io::Error| Failure::plain(format!("{}: {e}", path.display()));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&path, text).map_err(failed)?;
    }
    Ok(())
}
