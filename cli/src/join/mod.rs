//! `isthmus join`: a VM becomes part of the mesh with one command. First everything is checked, with nothing changed and
//! nothing secret sent; then files are written and the service is started. It refuses a machine that has joined already.

mod check;
pub(crate) mod machine;
mod ready;
pub(crate) mod record;
mod secret;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use self::machine::Service;
use self::record::{Joined, PROXY_UID};
use crate::connect;
use crate::failure::{Failure, finish};
use crate::leave;
use crate::output::{Format, OutputArgs};
use crate::span;

/// Make this machine part of the mesh, with a join token.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    sudo isthmus join --token-file orders.token\n  \
    isthmus token create shop/orders | ssh vm sudo isthmus join --token-file -\n  \
    sudo isthmus join --token-file orders.token --dry-run    check everything, change nothing\n\n\
    The token is never given on the command line: every process on a machine can read that. It may also come from\n\
    the environment, as ISTHMUS_JOIN_TOKEN. `isthmus leave` undoes a join.")]
pub(crate) struct Args {
    /// A file with the token, or `-` for stdin. Without it: the environment's ISTHMUS_JOIN_TOKEN.
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<PathBuf>,
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
    let given = secret::read(args.token_file.as_deref())?;
    let plan = Plan::new(args, &given)?;
    if let Some(warning) = &given.warning {
        eprintln!("warning: {warning}");
    }
    if let Some(joined) = Joined::read(&args.config_dir)? {
        return Err(Failure::new(
            format!("this machine has joined {} already", joined.trust_domain),
            "isthmus leave, then join",
        ));
    }
    let found = check::control_plane(&given.token).await?;
    let say = |line: String| {
        if format != Format::Json {
            println!("{line}")
        }
    };
    let ms = found.handshake.as_millis();
    say(format!("control plane {} answers ({ms} ms) and is the one that the token pins", given.token.address));
    say(match found.skew_ms {
        Some(skew) => format!("clocks agree within {} s", skew.unsigned_abs().div_ceil(1000).max(1)),
        None => "clocks were not compared: the answer carried no time".to_owned(),
    });
    let mut report = plan.report(&given, &found);
    if args.dry_run {
        for file in &plan.joined.files {
            say(format!("would write {}", file.display()));
        }
        say(plan.next_step());
        return show(&report, format);
    }
    if let Err(failure) = plan.carry_out(&given.text).await {
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
        given.token.trust_domain,
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
    fn new(args: &Args, given: &secret::Given) -> Result<Self, Failure> {
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
        let mut files = vec![config_file, args.config_dir.join("join-token")];
        files.extend(systemd.then(machine::unit_path));
        let joined = Joined {
            address: given.token.address.clone(),
            trust_domain: given.token.trust_domain.to_string(),
            files,
            state_dir: args.state_dir.clone(),
            unit: systemd.then(|| machine::UNIT_NAME.to_owned()),
            user_created: false,
        };
        let mut config =
            proxy_config(&given.token.address, &args.config_dir, &args.state_dir, &args.exclude_inbound_ports);
        if systemd {
            // In the unit's RuntimeDirectory; without systemd nobody makes one.
            config.push_str("admin: { socket: /run/isthmus/proxy.sock }\n");
        }
        Ok(Self { joined, config_dir: args.config_dir.clone(), config, unit, binary })
    }

    /// In an order that `leave` can undo from any point: the record first, the service last.
    async fn carry_out(&self, token: &str) -> Result<(), Failure> {
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
        record::file(&self.config_dir.join("join-token"), &format!("{token}\n"), 0o600, owner)?;
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

    fn report(&self, given: &secret::Given, found: &check::Found) -> Value {
        json!({
            "ok": true,
            "address": given.token.address,
            "trustDomain": given.token.trust_domain.as_str(),
            "tokenId": given.token.id,
            "root": given.token.root.to_string(),
            "handshakeMs": found.handshake.as_millis() as u64,
            "clockSkewMs": found.skew_ms,
            "files": self.joined.files,
            "service": self.joined.unit,
            "command": self.unit.is_none().then(|| self.command()),
            "ready": false,
        })
    }
}

fn proxy_config(address: &str, config_dir: &Path, state_dir: &Path, exclude: &[u16]) -> String {
    // JSON strings are YAML strings, whatever is in them.
    let quoted = |text: &str| Value::from(text).to_string();
    let (token, state) = (config_dir.join("join-token"), state_dir);
    let ports: Vec<String> = exclude.iter().map(u16::to_string).collect();
    format!(
        "# Written by `isthmus join`; `isthmus leave` takes it away.\n\
         controlPlane: {{ address: {} }}\n\
         joinTokenFile: {}\n\
         stateDir: {}\n\
         capture:\n  mode: nftables\n  exempt: {{ uid: {PROXY_UID} }}\n  inbound: all\n  \
         # Your way in if policy or proxy go wrong.\n  excludeInboundPorts: [{}]\n",
        quoted(address),
        quoted(&token.display().to_string()),
        quoted(&state.display().to_string()),
        ports.join(", "),
    )
}

#[cfg(test)]
#[path = "join_test.rs"]
mod join_test;
