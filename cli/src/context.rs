//! Several control planes, each by a name: `isthmus context`, and what `--context` means for every other command.
//!
//! A context names an operator file, and holds no secret itself; the file it is kept in is for its owner alone all the
//! same, since whoever writes it decides to whom the operator's commands go.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::failure::{Failure, finish};
use crate::operator::{Operator, config_dir};
use crate::output::{Format, OutputArgs, or_dash, table};

/// Name control planes, and choose which one commands go to.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus context                                     which there are, and which one is used\n  \
    isthmus context add prod --operator prod.yaml\n  \
    isthmus context use prod\n  \
    isthmus get policies --context staging              this command alone; also ISTHMUS_CONTEXT\n  \
    isthmus context rm staging\n\n\
    Kept in $XDG_CONFIG_HOME/isthmus/contexts.yaml (~/.config), mode 0600. --operator and ISTHMUS_OPERATOR go before it.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Which there are, and which one is used.
    #[command(after_help = "EXAMPLES:\n  isthmus context list --json")]
    List {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Commands go to this one from now on.
    #[command(after_help = "EXAMPLES:\n  isthmus context use prod")]
    Use { name: String },
    /// Name one. The first to be added is used.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus context add prod --operator ~/prod-operator.yaml\n  \
        isthmus context add lab --operator lab.yaml --address 127.0.0.1:25013")]
    Add {
        name: String,
        /// The operator file; it stays where it is.
        #[arg(long, value_name = "FILE")]
        operator: PathBuf,
        /// Connect here instead of the address in that file.
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
    },
    /// Forget one. Its operator file stays.
    #[command(after_help = "EXAMPLES:\n  isthmus context rm staging")]
    Rm { name: String },
}

/// `contexts.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    pub(crate) contexts: BTreeMap<String, Context>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) operator: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let format = match &args.what {
        Some(What::List { output }) => output.format(),
        _ => args.output.format(),
    };
    finish(change(args.what, format), format)
}

fn change(what: Option<What>, format: Format) -> Result<(), Failure> {
    let path = config_dir()?.join("contexts.yaml");
    let mut contexts = Contexts::read(&path)?;
    let said = match what {
        None | Some(What::List { .. }) => {
            show(&contexts, format);
            return Ok(());
        }
        Some(What::Use { name }) => {
            contexts.find(&name)?;
            contexts.current = Some(name.clone());
            format!("commands go to {name}")
        }
        Some(What::Add { name, operator, address }) => {
            check_name(&name)?;
            let operator = fs::canonicalize(&operator)
                .map_err(|e| Failure::new(format!("{}: {e}", operator.display()), "name the operator file"))?;
            let found = Operator::read(&operator)?;
            contexts.current.get_or_insert_with(|| name.clone());
            let to = address.clone().unwrap_or(found.address);
            contexts.contexts.insert(name.clone(), Context { operator, address });
            format!("{name} is the control plane at {to}")
        }
        Some(What::Rm { name }) => {
            contexts.find(&name)?;
            contexts.contexts.remove(&name);
            contexts.current = contexts.current.filter(|current| *current != name);
            format!("{name} is forgotten")
        }
    };
    contexts.write(&path)?;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "current": contexts.current })),
        Format::Table | Format::Yaml => println!("{said}"),
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Failure> {
    let good = (1..=63).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    match good {
        true => Ok(()),
        false => Err(Failure::usage(format!("`{name}` is no name: letters, digits, `-`, `_` and `.`"), "prod")),
    }
}

fn show(contexts: &Contexts, format: Format) {
    let is_current = |name: &String| contexts.current.as_ref() == Some(name);
    if format == Format::Table {
        if contexts.contexts.is_empty() {
            eprintln!("there is none; `isthmus context add NAME --operator FILE` makes one");
            return;
        }
        let row = |(name, context): (&String, &Context)| {
            let mark = if is_current(name) { "*" } else { "" };
            let address = context.address.clone().unwrap_or_default();
            vec![mark.to_owned(), name.clone(), context.operator.display().to_string(), or_dash(&address)]
        };
        let rows: Vec<_> = contexts.contexts.iter().map(row).collect();
        print!("{}", table(&["", "NAME", "OPERATOR FILE", "ADDRESS"], &rows));
        return;
    }
    let one = |(name, context): (&String, &Context)| json!({ "name": name, "current": is_current(name), "operator": context.operator, "address": context.address });
    println!("{:#}", json!({ "contexts": contexts.contexts.iter().map(one).collect::<Vec<_>>() }));
}

impl Contexts {
    /// None yet is none. Refused where others could have written it.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::new(format!("{}: {e}", path.display()), "check the file");
        let mode = match fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            found => found.map_err(failed)?.permissions().mode() & 0o777,
        };
        if mode & 0o022 != 0 {
            let what = format!("{}: mode {mode:04o} lets others say where your commands go", path.display());
            return Err(Failure::new(what, format!("look into it, then chmod 600 {}", path.display())));
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        serde_saphyr::from_str(&text).map_err(|e| {
            let what = format!("{}: {}", path.display(), e.without_snippet());
            Failure::new(what, "correct it, or remove it and add the contexts again")
        })
    }

    /// Aside and renamed, so that a crash leaves the old one or the new one.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed = |e: std::io::Error| Failure::plain(format!("{}: {e}", path.display()));
        let text = serde_saphyr::to_string(self).map_err(|e| Failure::plain(e.to_string()))?;
        let dir = path.parent().unwrap_or(Path::new("."));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let aside = path.with_extension(format!("yaml.{}", std::process::id()));
        let written = (|| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, path)
        })();
        written.map_err(|e| {
            // What is left of the attempt is of no use to anybody.
            let _ = fs::remove_file(&aside);
            failed(e)
        })
    }

    pub(crate) fn find(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known =
                if names.is_empty() { "there is none".to_owned() } else { format!("known: {}", names.join(", ")) };
            Failure::new(format!("there is no context `{name}`; {known}"), "isthmus context add NAME --operator FILE")
        })
    }
}

#[cfg(test)]
#[path = "context_test.rs"]
mod context_test;
