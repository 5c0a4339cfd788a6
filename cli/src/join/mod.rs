//! `isthmus join`: a VM becomes part of the mesh with one command. First everything is checked, with nothing changed and
//! nothing secret sent; then files are written and the service is started. It refuses a machine that has joined already.

mod check;
pub(crate) mod machine;
mod proof;
mod ready;
pub(crate) mod record;
mod secret;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use isthmus_certs::{RootFingerprint, TrustDomain};
use serde_json::{Value, json};

use self::machine::Service;
use self::proof::{Anchor, Shown};
use self::record::{Joined, PROXY_UID};
use crate::connect;
use crate::failure::{Failure, finish};
use crate::leave;
use crate::output::{Format, OutputArgs};
use crate::span;

/// Make this machine part of the mesh, with a join token or with a certificate that it has already.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    sudo isthmus join --token-file orders.token\n  \
    isthmus token create shop/orders | ssh vm sudo isthmus join --token-file -\n  \
    sudo isthmus join --token-file orders.token --dry-run    check everything, change nothing\n  \
    sudo isthmus join --certificate vm.pem --key vm.key --authority corp \\\n      \
    --control-plane 10.10.0.2:15012 --trust-domain shop.example --root 4f0a…\n  \
    sudo isthmus join --azure --control-plane 10.10.0.2:15012 --trust-domain shop.example --root 4f0a…\n\n\
    --root is the SHA-256 of the control plane's root, as `isthmus certs --json` shows it.\n\
    The token is never given on the command line: every process on a machine can read that. It may also come from\n\
    the environment, as ISTHMUS_JOIN_TOKEN. `isthmus leave` undoes a join.")]
pub(crate) struct Args {
    /// A file with the token, or `-` for stdin. Without it: the environment's ISTHMUS_JOIN_TOKEN.
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<PathBuf>,
    /// This machine's certificate of a company's own CA, with the CAs above it. PEM.
    #[arg(long, value_name = "FILE", requires_all = ["key", "control_plane", "trust_domain", "root"], conflicts_with = "token_file")]
    certificate: Option<PathBuf>,
    /// Its private key. It is used to sign one request; it is not copied and does not leave this machine.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The name that the control plane's `attestation.certificates` gives that CA.
    #[arg(long, value_name = "NAME", default_value = "corp")]
    authority: String,
    /// Join by what Azure's metadata service says of this VM.
    #[arg(long, requires_all = ["control_plane", "trust_domain", "root"], conflicts_with_all = ["token_file", "certificate"])]
    azure: bool,
    /// HOST:PORT of the control plane. A token carries it.
    #[arg(long, value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// The mesh's trust domain. A token carries it.
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse)]
    trust_domain: Option<TrustDomain>,
    /// SHA-256 of the control plane's root. A token carries it.
    #[arg(long, value_name = "SHA256", value_parser = RootFingerprint::parse)]
    root: Option<RootFingerprint>,
    /// Who starts the proxy, now and after a reboot.
    #[arg(long, value_enum, default_value = "auto")]
    service: Service,
    /// Where proxy.yaml goes.
    #[arg(long, default_value = "/etc/isthmus", value_name = "DIR")]
    config_dir: PathBuf,
    /// Where the proxy keeps its identity.
    #[arg(long, default_value = "/var/lib/isthmus", value_name = "DIR")]
    state_dir: PathBuf,
    /// Ports on this machine that stay reachable past the proxy, whatever policy says.
    #[arg(long, default_value = "22", value_delimiter = ',', value_name = "PORT,…")]
    exclude_inbound_ports: Vec<u16>,
    /// How long to wait until the proxy has its certificate and its first configuration.
    #[arg(long, default_value = "60s", value_parser = span::parse, value_name = "DURATION")]
    timeout: Duration,
    /// Check everything and say what would be written; change nothing, and leave the token unused.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(join(&args, format)), format)
}

async fn join(args: &Args, format: Format) -> Result<(), Failure> {
    let (anchor, shown) = proof::read(args)?;
    let plan = Plan::new(args, &anchor, &shown)?;
    if let Some(warning) = shown.warning() {
        eprintln!("warning: {warning}");
    }
    if let Some(joined) = Joined::read(&args.config_dir)? {
        return Err(Failure::new(
            format!("this machine has joined {} already", joined.trust_domain),
            "isthmus leave, then join",
        ));
    }
    let found = check::control_plane(&anchor).await?;
    let say = |line: String| {
        if format != Format::Json {
            println!("{line}")
        }
    };
    let ms = found.handshake.as_millis();
    say(format!("control plane {} answers ({ms} ms) and its root is the one that was named", anchor.address));
    say(match found.skew_ms {
        Some(skew) => format!("clocks agree within {} s", skew.unsigned_abs().div_ceil(1000).max(1)),
        None => "clocks were not compared: the answer carried no time".to_owned(),
    });
    let mut report = plan.report(&anchor, &shown, &found);
    if args.dry_run {
        for file in &plan.joined.files {
            say(format!("would write {}", file.display()));
        }
        say(plan.next_step());
        return show(&report, format);
    }
    if let Err(failure) = plan.carry_out(shown.token()).await {
        // Half a join would refuse the next one; what undoing cannot undo, its own message names.
        leave::undo(&args.config_dir).await?;
        return Err(failure);
    }
    if plan.joined.unit.is_none() {
        say(plan.next_step());
        return show(&report, format);
    }
    let took = ready::wait(args.timeout).await?;
    report["ready"] = json!(true);
    report["readyAfterMs"] = json!(took.as_millis() as u64);
    say(format!(
        "joined {}: the proxy has its certificate and serves, after {:.1} s",
        anchor.trust_domain,
        took.as_secs_f64()
    ));
    show(&report, format)
}

fn show(report: &Value, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        println!("{report}");
    }
    Ok(())
}

/// All that will be on this machine, worked out before anything is.
struct Plan {
    joined: Joined,
    config_dir: PathBuf,
    config: String,
    unit: Option<String>,
    binary: PathBuf,
}

impl Plan {
    fn new(args: &Args, anchor: &Anchor, shown: &Shown) -> Result<Self, Failure> {
        let systemd = args.service.is_systemd()?;
        if systemd && !args.dry_run && !machine::is_root() {
            return Err(Failure::new("installing a service takes root", "sudo isthmus join …, or --service none"));
        }
        for path in [&args.config_dir, &args.state_dir] {
            if !path.is_absolute() {
                return Err(Failure::usage(format!("{}: not an absolute path", path.display()), "start it with /"));
            }
        }
        let binary = std::env::current_exe().map_err(|e| Failure::plain(format!("where this program is: {e}")))?;
        let config_file = args.config_dir.join("proxy.yaml");
        let unit = systemd.then(|| machine::unit(&binary, &config_file, &args.state_dir)).transpose()?;
        let unit = unit.map(|unit| shown.unit(unit));
        let mut files = vec![config_file];
        files.extend(shown.token().map(|_| args.config_dir.join("join-token")));
        files.extend(systemd.then(machine::unit_path));
        let joined = Joined {
            address: anchor.address.clone(),
            trust_domain: anchor.trust_domain.to_string(),
            files,
            state_dir: args.state_dir.clone(),
            unit: systemd.then(|| machine::UNIT_NAME.to_owned()),
            user_created: false,
        };
        let first = shown.config(anchor, &args.config_dir, systemd);
        let mut config = proxy_config(&first, &args.state_dir, &args.exclude_inbound_ports);
        if systemd {
            // In the unit's RuntimeDirectory; without systemd nobody makes one.
            config.push_str("admin: { socket: /run/isthmus/proxy.sock }\n");
        }
        Ok(Self { joined, config_dir: args.config_dir.clone(), config, unit, binary })
    }

    /// In an order that `leave` can undo from any point: the record first, the service last.
    async fn carry_out(&self, token: Option<&str>) -> Result<(), Failure> {
        let mut joined = self.joined.clone();
        record::dir(&self.config_dir, 0o755, None)?;
        joined.write(&self.config_dir)?;
        if self.unit.is_some() && machine::ensure_user().await? {
            joined.user_created = true;
            joined.write(&self.config_dir)?;
        }
        // Without root the proxy can only run as the one who joins, so the files stay theirs.
        let owner = machine::is_root().then_some(PROXY_UID);
        record::dir(&self.joined.state_dir, 0o700, owner)?;
        if let Some(token) = token {
            record::file(&self.config_dir.join("join-token"), &format!("{token}\n"), 0o600, owner)?;
        }
        record::file(&self.config_dir.join("proxy.yaml"), &self.config, 0o644, None)?;
        if let Some(unit) = &self.unit {
            record::file(&machine::unit_path(), unit, 0o644, None)?;
            machine::systemctl(&["daemon-reload"]).await?;
            machine::systemctl(&["enable", "--now", machine::UNIT_NAME]).await?;
        }
        Ok(())
    }

    fn next_step(&self) -> String {
        match &self.unit {
            Some(_) => format!("would install, enable and start {}", machine::UNIT_NAME),
            None => format!("start the proxy now and at each boot with:\n  {}", self.command()),
        }
    }

    /// Capture exempts the proxy by its uid, so the uid is part of the command.
    fn command(&self) -> String {
        let proxy = format!("{} proxy --config {}", self.binary.display(), self.joined.files[0].display());
        format!(
            "setpriv --reuid {PROXY_UID} --regid {PROXY_UID} --clear-groups --inh-caps +net_admin --ambient-caps +net_admin {proxy}"
        )
    }

    fn report(&self, anchor: &Anchor, shown: &Shown, found: &check::Found) -> Value {
        json!({
            "ok": true,
            "address": anchor.address,
            "trustDomain": anchor.trust_domain.as_str(),
            "tokenId": shown.token_id(),
            "root": anchor.root.to_string(),
            "handshakeMs": found.handshake.as_millis() as u64,
            "clockSkewMs": found.skew_ms,
            "files": self.joined.files,
            "service": self.joined.unit,
            "command": self.unit.is_none().then(|| self.command()),
            "ready": false,
        })
    }
}

fn proxy_config(first_contact: &str, state_dir: &Path, exclude: &[u16]) -> String {
    let state = Value::from(state_dir.display().to_string());
    let ports: Vec<String> = exclude.iter().map(u16::to_string).collect();
    format!(
        "# Written by `isthmus join`; `isthmus leave` takes it away.\n\
         {first_contact}\
         stateDir: {state}\n\
         capture:\n  mode: nftables\n  exempt: {{ uid: {PROXY_UID} }}\n  inbound: all\n  \
         # Your way in if policy or proxy go wrong.\n  excludeInboundPorts: [{}]\n",
        ports.join(", "),
    )
}

#[cfg(test)]
#[path = "join_test.rs"]
mod join_test;
