//! `isthmus store`: from one store to another, and another key around what encrypts it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use isthmus_control::Config;
use isthmus_control::store::{Codec, EmbeddedStore, EtcdOptions, EtcdStore, Store, StoreError, Wrap, open};
use serde_json::json;

use crate::failure::{Failure, finish};
use crate::output::{Format, OutputArgs};

/// Move a control plane's store, or change what its encryption hangs on.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Copy everything into an empty store, and compare what arrived. The control plane must not run.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus store migrate --from redb:/var/lib/isthmus-control/store.redb \\\n    \
        --to etcd:https://10.10.0.5:2379,https://10.10.0.6:2379,https://10.10.0.7:2379 \\\n    \
        --etcd-ca /etc/isthmus/etcd-ca.pem --etcd-certificate /etc/isthmus/etcd.pem --etcd-key /etc/isthmus/etcd.key\n  \
        isthmus store migrate --from redb:store.redb --to redb:sealed.redb --to-passphrase-file store.key")]
    Migrate(MigrateArgs),
    /// Wrap the data key of an encrypted store by what the configuration says now. Values are not touched.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus store rewrap --config /etc/isthmus/control.yaml --former /etc/isthmus/control.yaml.before")]
    Rewrap(RewrapArgs),
}

#[derive(clap::Args, Debug)]
struct MigrateArgs {
    /// redb:FILE, or etcd:URL,URL,…
    #[arg(long, value_name = "STORE")]
    from: String,
    /// The same; must be empty.
    #[arg(long, value_name = "STORE")]
    to: String,
    /// What the store to read is encrypted with. Mode 0600.
    #[arg(long, value_name = "FILE")]
    from_passphrase_file: Option<PathBuf>,
    /// What the new store is to be encrypted with. Mode 0600.
    #[arg(long, value_name = "FILE")]
    to_passphrase_file: Option<PathBuf>,
    /// Before every key, as `store.etcd.prefix` says it.
    #[arg(long, value_name = "PREFIX", default_value = "/isthmus/")]
    etcd_prefix: String,
    /// The CA of the cluster, PEM.
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// Our client certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_key")]
    etcd_certificate: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "etcd_certificate")]
    etcd_key: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args, Debug)]
struct RewrapArgs {
    /// The control plane's configuration, with the new `store.encryption`.
    #[arg(long, value_name = "FILE", default_value = "/etc/isthmus/control.yaml")]
    config: PathBuf,
    /// The configuration of before.
    #[arg(long, value_name = "FILE")]
    former: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    match args.what {
        What::Migrate(args) => finish(migrate(&args), args.output.format()),
        What::Rewrap(args) => finish(rewrap(&args), args.output.format()),
    }
}

fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let from = named(&args.from, args.from_passphrase_file.as_ref(), args, false)?;
    let dump = from.dump().map_err(|e| failed(&args.from, &e))?;
    let to = named(&args.to, args.to_passphrase_file.as_ref(), args, true)?;
    to.fill(&dump).map_err(|e| failed(&args.to, &e))?;
    let arrived = to.dump().map_err(|e| failed(&args.to, &e))?;
    if arrived != dump {
        return Err(Failure::new(
            format!("{} does not hold what {} holds", args.to, args.from),
            "use neither: is a control plane running on one of them?",
        ));
    }
    let (revision, resources) = (dump.revision, dump.resources.len());
    let (tokens, facts) = (dump.tokens.len(), dump.facts.len());
    match args.output.format() {
        Format::Json => println!(
            "{}",
            json!({ "revision": revision, "resources": resources, "tokens": tokens, "facts": facts, "verified": true })
        ),
        _ => println!(
            "revision {revision}: {resources} resources, {tokens} join tokens, {facts} facts; all of it arrived. Name the \
             new store in control.yaml before you start"
        ),
    }
    Ok(())
}

/// `redb:FILE` or `etcd:URL,URL`. A file that is only read must be there.
fn named(name: &str, passphrase: Option<&PathBuf>, args: &MigrateArgs, new: bool) -> Result<Box<dyn Store>, Failure> {
    let wrap = passphrase.map(|path| Wrap::passphrase(path)).transpose();
    let wrap = wrap.map_err(|e| Failure::new(e, "a file of at least 12 bytes, mode 0600"))?;
    let codec = wrap.map(Codec::encrypted).unwrap_or_default();
    match name.split_once(':') {
        Some(("redb", file)) => {
            let file = PathBuf::from(file);
            if !new && !file.exists() {
                return Err(Failure::new(format!("{}: there is no such file", file.display()), "redb:FILE"));
            }
            let store = EmbeddedStore::open_with(&file, codec).map_err(|e| failed(name, &e))?;
            Ok(Box::new(store))
        }
        Some(("etcd", urls)) => {
            let options = EtcdOptions {
                endpoints: urls.split(',').map(str::to_owned).collect(),
                prefix: args.etcd_prefix.clone(),
                ca_file: args.etcd_ca.clone(),
                certificate_file: args.etcd_certificate.clone(),
                key_file: args.etcd_key.clone(),
                apart: true,
                ..EtcdOptions::default()
            };
            Ok(Box::new(EtcdStore::open(options, codec).map_err(|e| failed(name, &e))?))
        }
        _ => Err(Failure::usage(format!("`{name}` names no store"), "redb:FILE or etcd:URL,URL")),
    }
}

fn rewrap(args: &RewrapArgs) -> Result<(), Failure> {
    let load = |path: &PathBuf| Config::load(path).map_err(|e| Failure::plain(e.to_string()));
    let (config, former) = (load(&args.config)?, load(&args.former)?);
    open::rewrap(&config, &former).map_err(|e| failed("the store", &e))?;
    match args.output.format() {
        Format::Json => println!("{}", json!({ "rewrapped": true })),
        _ => println!("done: the store opens with the new key alone. Copies of before open with the former one"),
    }
    Ok(())
}

fn failed(name: &str, error: &StoreError) -> Failure {
    Failure::plain(format!("{name}: {error}"))
}
