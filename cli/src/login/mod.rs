//! `isthmus login`: a short-lived operator's certificate, for a token, for a longer-lived certificate, or for a sign-in
//! at a provider. The key is made here, is written with mode 0600, and never leaves this machine.

mod file;
mod token;

pub(crate) use file::{SESSION, is_over};

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use isthmus_certs::{
    ExpectedPeer, IdentityStore, PrivateKey, RootFingerprint, SpiffeId, SystemClock, TrustBundle, TrustDomain,
    WorkloadIdentity, csr, pem,
};
use isthmus_proto::admin::v1 as wire;
use isthmus_proto::admin::v1::login_client::LoginClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::connect::{self, Access};
use crate::failure::{Failure, finish};
use crate::operator::{Operator, OperatorArgs, config_dir};
use crate::output::{Format, OutputArgs, when};
use crate::span;

/// A person at a browser, with a code to type.
const BROWSER: Duration = Duration::from_secs(16 * 60);

/// Get a short-lived operator's certificate, which all other commands then use.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus login                                    from operator.yaml, or once more from the last sign-in\n  \
    isthmus login --token-file robot.token           in a pipeline, with a token of `isthmus robot create`\n  \
    isthmus login --token-file -                     the same from stdin, as from a secrets store\n  \
    isthmus login --token-file bob.token             once, with an invitation of `isthmus invite bob`\n  \
    isthmus login --oidc                             in a browser, at the company's provider\n  \
    isthmus login --oidc --control-plane mesh.shop.example:15013 --trust-domain shop.example --root 4f0a…\n\n\
    --root is the SHA-256 of the control plane's root, as `isthmus certs --json` shows it.\n\
    A token is never given on the command line: every process on a machine can read that. It may also come from the\n\
    environment, as ISTHMUS_OPERATOR_TOKEN. The certificate goes to ~/.config/isthmus/session.yaml, mode 0600.")]
pub(crate) struct Args {
    /// A file with a robot's token or an invitation, or `-` for stdin. Without it: the environment's
    /// ISTHMUS_OPERATOR_TOKEN, else the certificate that is there.
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<PathBuf>,
    /// Sign in at the provider that the control plane names, in a browser on whichever machine.
    #[arg(long, conflicts_with = "token_file")]
    oidc: bool,
    /// HOST:PORT of the operators' port, where no earlier sign-in and no operator.yaml says it.
    #[arg(long, value_name = "HOST:PORT", requires_all = ["oidc", "trust_domain", "root"])]
    control_plane: Option<String>,
    /// The mesh's trust domain.
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse, requires = "control_plane")]
    trust_domain: Option<TrustDomain>,
    /// SHA-256 of the control plane's root.
    #[arg(long, value_name = "SHA256", value_parser = RootFingerprint::parse, requires = "control_plane")]
    root: Option<RootFingerprint>,
    /// How long the certificate is good for. The control plane gives no more than it is configured to.
    #[arg(long, value_parser = span::parse, value_name = "DURATION")]
    ttl: Option<Duration>,
    /// Write it here.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Say as whom the control plane knows you, and what you may do.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  isthmus whoami\n  isthmus whoami --json")]
pub(crate) struct WhoAmI {
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(login(args, format, operator)), format)
}

pub(crate) fn run_whoami(args: WhoAmI, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(whoami(format, operator)), format)
}

async fn login(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let out = match &args.out {
        Some(out) => out.clone(),
        None => config_dir()?.join(file::SESSION),
    };
    let ttl_seconds = args.ttl.map_or(0, |ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX));
    let key = csr::new_key().map_err(|e| Failure::plain(format!("no key could be made: {e}")))?;
    let csr_der = csr::request(&key).map_err(|e| Failure::plain(format!("no request could be made: {e}")))?;
    let limit = operator.request_timeout;
    let token = if args.oidc { None } else { token::read(args.token_file.as_deref())? };
    let (answer, address, trust_domain) = match token {
        None if args.oidc => {
            let (address, trust_domain, root) = anchor(&args, operator)?;
            let mut client = pinned(&address, &trust_domain, root, limit).await?;
            let request = wire::SignInRequest { csr_der, ttl_seconds };
            (sign_in(&mut client, request, limit).await?, address, trust_domain)
        }
        Some(token) => {
            let address = operator.address.clone().unwrap_or_else(|| token.address.clone());
            let mut client = pinned(&address, &token.trust_domain, token.root, limit).await?;
            let request = wire::RedeemRequest { secret: token.secret().to_string(), csr_der, ttl_seconds };
            (connect::within(limit, client.redeem(request)).await?, address, token.trust_domain.clone())
        }
        None => {
            let base = Operator::to_renew(operator)?;
            let mut client = LoginClient::new(connect::channel_of(&base, limit).await?);
            let request = wire::RenewLoginRequest { csr_der, ttl_seconds };
            (connect::within(limit, client.renew(request)).await?, base.address, base.trust_domain)
        }
    };
    let signed_in = Signed { address, trust_domain, answer };
    signed_in.write(key, &out)?;
    let held = OperatorArgs { operator: Some(out.clone()), ..operator.clone() };
    let me = ask(&held).await?;
    signed_in.print(&me, &out, format);
    Ok(())
}

/// Whom to trust: as the command line says, or the files that are there.
fn anchor(args: &Args, operator: &OperatorArgs) -> Result<(String, TrustDomain, RootFingerprint), Failure> {
    if let (Some(address), Some(trust_domain), Some(root)) = (&args.control_plane, &args.trust_domain, args.root) {
        return Ok((address.clone(), trust_domain.clone(), root));
    }
    let known = Operator::last(operator).map_err(|_| {
        Failure::usage(
            "it is not known where the control plane is",
            "--control-plane HOST:PORT --trust-domain NAME --root SHA256, this first time",
        )
    })?;
    let roots = pem::parse(known.roots.as_bytes()).map(|parts| parts.certificates).unwrap_or_default();
    let root = roots.first().map(RootFingerprint::of);
    let root = root.ok_or_else(|| Failure::plain(format!("{}: it has no roots", known.path.display())))?;
    Ok((known.address, known.trust_domain, root))
}

/// The code for a person, then the certificate.
async fn sign_in(
    client: &mut LoginClient<Channel>,
    request: wire::SignInRequest,
    limit: Duration,
) -> Result<wire::LoginResponse, Failure> {
    let mut progress = connect::within(limit, client.sign_in(request)).await?;
    loop {
        let next = tokio::time::timeout(BROWSER, progress.message()).await;
        let late = |_| Failure::timed_out("nobody signed in within 15 minutes", "isthmus login --oidc, once more");
        let next = next.map_err(late)?.map_err(|status| connect::refused(&status))?;
        match next {
            Some(wire::SignInProgress { done: Some(done), .. }) => return Ok(done),
            Some(first) => {
                eprintln!("open {} and enter the code {}", first.verification_uri, first.user_code);
                if !first.verification_uri_complete.is_empty() {
                    eprintln!("or open {}", first.verification_uri_complete);
                }
            }
            None => return Err(Failure::plain("the control plane ended the sign-in; try again")),
        }
    }
}

/// The Login service of a control plane that is known by its root alone.
async fn pinned(
    address: &str,
    trust_domain: &TrustDomain,
    root: RootFingerprint,
    limit: Duration,
) -> Result<LoginClient<Channel>, Failure> {
    let store = IdentityStore::new(trust_domain.clone(), Arc::new(SystemClock));
    let expected = ExpectedPeer::PinnedRoot(root, SpiffeId::control_plane(trust_domain));
    let tls = store.client_config(&[b"h2"], expected);
    let stream = connect::dial(address, tls, limit).await.map_err(|e| e.for_stranger(address))?;
    Ok(LoginClient::new(connect::channel(stream).await?))
}

struct Signed {
    address: String,
    trust_domain: TrustDomain,
    answer: wire::LoginResponse,
}

impl Signed {
    /// Only what fits together and is good now replaces what is there.
    fn write(&self, key: PrivateKey, out: &Path) -> Result<(), Failure> {
        let odd = |what: &dyn std::fmt::Display| {
            Failure::new(format!("the control plane's answer is no certificate: {what}"), "check its version")
        };
        let chain = self.answer.chain_der.iter().cloned().map(Into::into).collect();
        let bundle = TrustBundle::from_ders(self.answer.roots_der.clone()).map_err(|e| odd(&e))?;
        let now = isthmus_certs::Clock::now(&SystemClock);
        let identity = WorkloadIdentity::new(chain, key, bundle, now).map_err(|e| odd(&e))?;
        file::write(out, &self.address, &self.trust_domain, &identity)
    }

    fn print(&self, me: &wire::WhoAmIResponse, out: &Path, format: Format) {
        let (operator, until) = (&self.answer.operator, self.answer.not_after_unix_ms);
        match format {
            Format::Json => println!(
                "{}",
                json!({ "ok": true, "operator": operator, "notAfterUnixMs": until, "file": out.display().to_string(),
                        "admin": me.admin, "views": me.views, "edits": me.edits })
            ),
            _ => {
                println!("signed in as {operator} until {}, in {}", when(until), out.display());
                print!("{}", rights(me));
            }
        }
    }
}

async fn ask(operator: &OperatorArgs) -> Result<wire::WhoAmIResponse, Failure> {
    let mut access = Access::connect(operator).await?;
    access.call(async |client| client.who_am_i(wire::WhoAmIRequest {}).await).await
}

async fn whoami(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let me = ask(operator).await?;
    match format {
        Format::Json => println!(
            "{}",
            json!({ "operator": me.operator, "displayName": me.display_name, "groups": me.groups, "admin": me.admin,
                    "views": me.views, "edits": me.edits, "notAfterUnixMs": me.not_after_unix_ms })
        ),
        _ => {
            let name = if me.display_name.is_empty() { String::new() } else { format!(" ({})", me.display_name) };
            println!("operator {}{name}, until {}", me.operator, when(me.not_after_unix_ms));
            if !me.groups.is_empty() {
                println!("groups   {}", me.groups.join(", "));
            }
            print!("{}", rights(&me));
        }
    }
    Ok(())
}

fn rights(me: &wire::WhoAmIResponse) -> String {
    let named = |namespaces: &[String]| match namespaces {
        [] => "nothing".to_owned(),
        [all] if all == "*" => "the whole mesh".to_owned(),
        some => some.join(", "),
    };
    match (me.admin, me.views.as_slice()) {
        (true, _) => "admin of the whole mesh\n".to_owned(),
        (false, []) => {
            "no role: an admin gives one with an OperatorRole that names you or one of your groups\n".to_owned()
        }
        (false, _) => format!("sees     {}\nchanges  {}\n", named(&me.views), named(&me.edits)),
    }
}

#[cfg(test)]
#[path = "login_test.rs"]
mod login_test;
