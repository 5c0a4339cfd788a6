//! `isthmus ca`: who signs. A change of roots, step by step and with proof; an intermediate of a company's own PKI.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use isthmus_certs::{TrustBundle, TrustDomain, pem, spiffe_bundle};
use isthmus_proto::admin::v1 as wire;
use serde_json::{Value, json};

use crate::certs::{roots_json, roots_text};
use crate::connect::{self, Authority};
use crate::failure::{Failure, finish};
use crate::operator::{Operator, OperatorArgs};
use crate::output::{Format, OutputArgs};

/// Look after the certificate authority.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Replace the root, step by step; each refuses to go on while anybody would be cut off, and names who.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus ca rotate start      a new root, trusted beside the old one\n  \
        isthmus ca rotate status     who is not ready yet\n  \
        isthmus ca rotate promote    certificates come from the new root\n  \
        isthmus ca rotate retire     the old root is trusted no longer\n  \
        isthmus ca rotate abort      the old one again, at any time before that")]
    Rotate {
        #[arg(value_enum)]
        step: Step,
        /// Go on though those who are named will be cut off.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print the roots for another mesh that shall believe this one (see its `TrustDomain`). Nothing in it is secret.
    #[command(after_help = "EXAMPLES:\n  \
        isthmus ca bundle > shop.yaml           a TrustDomain: there, isthmus apply -f shop.yaml\n  \
        isthmus ca bundle --form spiffe         a SPIFFE bundle, for other implementations\n  \
        isthmus ca bundle --form pem\n\n\
        During a change of roots it holds both: hand it over again after `ca rotate start` and after `retire`.")]
    Bundle {
        #[arg(long, value_enum, default_value_t = Form::Resource)]
        form: Form,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a request for an intermediate, to be signed by the company's own PKI. PEM on stdout.
    #[command(after_help = "EXAMPLES:\n  isthmus ca csr > isthmus.csr\n\n\
        The template must give: basicConstraints CA:TRUE (pathlen 0 is enough), keyUsage keyCertSign.")]
    Csr {
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Take the signed intermediate: its certificate, each CA above it, the root, in one PEM file.
    #[command(after_help = "EXAMPLES:\n  isthmus ca import chain.pem    then: isthmus ca rotate promote")]
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// How roots are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A resource that the other mesh applies.
    Resource,
    /// JSON: a JWK set.
    Spiffe,
    Pem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Step {
    Start,
    Status,
    Promote,
    Retire,
    Abort,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    match args.what {
        What::Rotate { step, force, output } => {
            finish(connect::block_on(rotate(step, force, output.format(), operator)), output.format())
        }
        What::Bundle { form, output } => {
            finish(connect::block_on(bundle(form, output.format(), operator)), output.format())
        }
        What::Csr { output } => finish(connect::block_on(csr(output.format(), operator)), output.format()),
        What::Import { file, output } => {
            finish(connect::block_on(import(&file, output.format(), operator)), output.format())
        }
    }
}

async fn rotate(step: Step, force: bool, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let wire_step = match step {
        Step::Status => wire::RotationStep::Unspecified,
        Step::Start => wire::RotationStep::Start,
        Step::Promote => wire::RotationStep::Promote,
        Step::Retire => wire::RotationStep::Retire,
        Step::Abort => wire::RotationStep::Abort,
    };
    let mut authority = Authority::connect(operator).await?;
    let request = wire::RotateRequest { step: wire_step.into(), force };
    let answer = authority.call(async |client| client.rotate(request).await).await?;
    print_state(&answer, format)
}

pub(crate) fn print_state(answer: &wire::RotateResponse, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => println!("{}", state_json(answer)),
        Format::Yaml => println!("{:#}", state_json(answer)),
        Format::Table => print!("{}", state_text(answer)),
    }
    if !answer.refused {
        return Ok(());
    }
    let failure = Failure::new(
        format!("not yet: {} would be cut off; nothing was changed", answer.not_yet.len()),
        "wait for them, or go on without them with --force",
    );
    Err(if format == Format::Table { failure } else { failure.reported() })
}

fn state_text(answer: &wire::RotateResponse) -> String {
    let mut text = format!("{}\n{}", answer.phase, roots_text(&answer.roots));
    if !answer.not_yet.is_empty() {
        text.push_str("\nnot yet:\n");
        answer.not_yet.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text.push_str(&format!("\nnext: {}\n", answer.next));
    text
}

fn state_json(answer: &wire::RotateResponse) -> Value {
    json!({ "ok": !answer.refused, "phase": answer.phase, "roots": roots_json(&answer.roots),
            "notYet": answer.not_yet, "next": answer.next })
}

async fn bundle(form: Form, format: Format, args: &OperatorArgs) -> Result<(), Failure> {
    let domain = Operator::find(args)?.trust_domain;
    let mut authority = Authority::connect(args).await?;
    let request = wire::ListCertificatesRequest {};
    let listed = authority.call(async |client| client.list_certificates(request).await).await?;
    let roots = TrustBundle::from_ders(listed.roots.iter().map(|root| &root.der));
    let roots = roots.map_err(|error| {
        Failure::new(
            format!("the control plane's answer holds no roots: {error}"),
            "is it of an older version? Update it first",
        )
    })?;
    let text = handed_over(&domain, &roots, form)?;
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "trustDomain": domain.as_str(), "bundle": text })),
        Format::Table | Format::Yaml => print!("{text}"),
    }
    Ok(())
}

fn handed_over(domain: &TrustDomain, roots: &TrustBundle, form: Form) -> Result<String, Failure> {
    let pem =
        || pem::write(roots.roots(), None).map(|text| text.to_string()).map_err(|e| Failure::plain(e.to_string()));
    match form {
        Form::Pem => pem(),
        Form::Spiffe => spiffe_bundle::json(roots).ok_or_else(|| {
            Failure::new("a root's key is neither RSA nor of a NIST curve: no JWK can say it", "use --form pem")
        }),
        Form::Resource => {
            let indented: String = pem()?.lines().map(|line| format!("    {line}\n")).collect();
            // A resource's name has no dots where it can do without.
            let name = domain.as_str().replace(['.', '_'], "-");
            Ok(format!(
                "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: TrustDomain\nmetadata:\n  name: {name}\nspec:\n  \
                 trustDomain: {domain}\n  pem: |\n{indented}"
            ))
        }
    }
}

async fn csr(format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut authority = Authority::connect(operator).await?;
    let request = wire::RequestIntermediateRequest {};
    let answer = authority.call(async |client| client.request_intermediate(request).await).await?;
    let text = pem::request(&answer.csr_der);
    match format {
        Format::Json => println!("{}", json!({ "ok": true, "csr": text })),
        Format::Table | Format::Yaml => print!("{text}"),
    }
    Ok(())
}

async fn import(file: &Path, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let broken = |what: &dyn std::fmt::Display| {
        Failure::new(
            format!("{}: {what}", file.display()),
            "give one PEM file: the issued certificate first, the root last",
        )
    };
    let text = std::fs::read(file).map_err(|error| broken(&error))?;
    let chain = pem::parse(&text).map_err(|error| broken(&error))?.certificates;
    let mut authority = Authority::connect(operator).await?;
    let chain_der = chain.iter().map(|der| der.to_vec()).collect();
    let request = wire::ImportIntermediateRequest { chain_der };
    let answer = authority.call(async |client| client.import_intermediate(request).await).await?;
    print_state(&answer, format)
}

#[cfg(test)]
#[path = "ca_test.rs"]
mod ca_test;
