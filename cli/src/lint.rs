//! `isthmus lint`: what `apply` would say of files, without a control plane: every problem at once, and what is hardly
//! meant. It is the control plane's own validation. With `--live` the control plane is asked whom it would cut off.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use isthmus_certs::{Clock, SystemClock, TrustDomain};
use isthmus_control::validate::cross::{self, Fault, Set};
use isthmus_control::validate::resource::Spec;
use isthmus_control::validate::{self, Parsed, Problem, ResourceRef, advice};
use serde_json::{Value, json};

use crate::connect::{self, Policy};
use crate::documents;
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};
use crate::policy::replay;

/// Check resource files, offline: every problem with file, line and column, and rules that are hardly meant.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus lint policies/\n  \
    isthmus lint orders.yaml --with mesh/      also check that what it refers to is there\n  \
    isthmus lint policies/ --strict --json     for a pipeline: warnings fail too\n  \
    isthmus lint orders.yaml --live            also whom of the last hour it would cut off\n\n\
    Without a MeshConfig among the files, references to other resources are not checked.\n\n\
    EXIT STATUS: 0 sound, 1 problems (with --strict: or warnings), 2 wrong usage")]
pub(crate) struct Args {
    /// A YAML file, a directory of them (.yaml, .yml), or `-` for stdin.
    #[arg(required = true, value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// More of the mesh, which is not itself checked: a file or directory. May be repeated.
    #[arg(long, value_name = "FILE|DIR")]
    with: Vec<PathBuf>,
    /// Warnings count as problems.
    #[arg(long)]
    strict: bool,
    /// Ask the control plane for traffic of the last hour that would be cut off if this were applied now.
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(lint(&args, format, operator), format)
}

/// What was found, in the order of the files.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Traffic of the last hour that would be refused from then on.
    cut_off: Vec<String>,
    resources: usize,
    /// Whether what the files refer to was looked for.
    whole: bool,
}

fn lint(args: &Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut parsed = Vec::new();
    let mut found = Found::default();
    let documents = documents::read(&args.files)?;
    for document in &documents {
        let (resources, problems) = validate::parse(&document.source, &document.yaml);
        parsed.extend(resources);
        found.problems.extend(problems);
    }
    found.resources = parsed.len();
    let mut around = Vec::new();
    if !args.with.is_empty() {
        for document in documents::read(&args.with)? {
            around.extend(validate::parse(&document.source, &document.yaml).0);
        }
    }
    check_together(&parsed, around, &mut found)?;
    if args.live && found.problems.is_empty() {
        found.cut_off = connect::block_on(async {
            let mut policy = Policy::connect(operator).await?;
            replay::cut_off(&mut policy, documents).await
        })?;
    }
    report(args, format, &found)
}

fn check_together(parsed: &[Parsed], around: Vec<Parsed>, found: &mut Found) -> Result<(), Failure> {
    let mut set: Set = around.into_iter().map(|parsed| Arc::new(parsed.resource)).collect();
    let mut seen: Vec<&ResourceRef> = Vec::new();
    for one in parsed {
        if seen.contains(&&one.resource.key) {
            found.problems.push(place(one, "metadata.name", "is in these files twice".to_owned()));
        }
        seen.push(&one.resource.key);
        set.insert(Arc::new(one.resource.clone()));
    }
    let said = set.of_kind("MeshConfig", None).find_map(|resource| match &resource.spec {
        Spec::MeshConfig(mesh) => mesh.trust_domain.clone(),
        _ => None,
    });
    found.whole = set.of_kind("MeshConfig", None).next().is_some();
    let domain = said.as_deref().unwrap_or("any.example");
    let trust_domain = TrustDomain::parse(domain).map_err(|e| Failure::plain(format!("spec.trustDomain: {e}")))?;
    let of = |fault: &Fault| parsed.iter().find(|one| one.resource.key == fault.key);
    if found.whole {
        let findings = cross::check(&set, &trust_domain);
        for fault in &findings.faults {
            found.problems.extend(of(fault).map(|one| place(one, &fault.field, fault.reason.clone())));
        }
        for warning in findings.warnings {
            let about = parsed.iter().find(|one| warning.starts_with(&format!("{}:", one.resource.key)));
            if let Some(one) = about {
                let text = warning[one.resource.key.to_string().len() + 1..].trim();
                found.warnings.push(place(one, "", text.to_owned()));
            }
        }
    }
    let now_ms = SystemClock.now_ms();
    for one in parsed {
        for said in advice::of(&set, &one.resource, domain, now_ms) {
            found.warnings.push(place(one, &said.field, said.reason));
        }
    }
    // As they stand in the files, which are in the order in which they were named.
    let order = |problem: &Problem| {
        let file = parsed.iter().position(|one| one.source == problem.source);
        (file, problem.source.clone(), problem.line, problem.column)
    };
    found.problems.sort_by_cached_key(order);
    found.warnings.sort_by_cached_key(order);
    Ok(())
}

fn place(parsed: &Parsed, field: &str, reason: String) -> Problem {
    let (line, column) = validate::locate(&parsed.node, field);
    let resource = parsed.resource.key.clone();
    Problem { source: parsed.source.clone(), line, column, resource, field: field.to_owned(), reason }
}

fn report(args: &Args, format: Format, found: &Found) -> Result<(), Failure> {
    let warnings = found.warnings.len() + found.cut_off.len();
    let bad = found.problems.len() + if args.strict { warnings } else { 0 };
    if format == Format::Json {
        println!(
            "{}",
            json!({
                "ok": bad == 0,
                "resources": found.resources,
                "referencesChecked": found.whole,
                "problems": found.problems.iter().map(problem_json).collect::<Vec<_>>(),
                "warnings": found.warnings.iter().map(problem_json).collect::<Vec<_>>(),
                "cutOff": args.live.then_some(&found.cut_off),
            })
        );
    } else {
        found.problems.iter().for_each(|problem| println!("{problem}"));
        found.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        found.cut_off.iter().for_each(|line| println!("warning: this would cut off {line}"));
        if !found.whole {
            eprintln!(
                "references were not checked: no MeshConfig is among the files (--with adds the rest of the mesh)"
            );
        }
    }
    if bad == 0 {
        if format != Format::Json {
            println!("{} sound, {}", count(found.resources, "resource"), count(warnings, "warning"));
        }
        return Ok(());
    }
    let what = format!("{}, {}", count(found.problems.len(), "problem"), count(warnings, "warning"));
    let failure = Failure::plain(what);
    Err(if format == Format::Json { failure.reported() } else { failure })
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn problem_json(problem: &Problem) -> Value {
    let key = &problem.resource;
    json!({
        "source": problem.source,
        "line": problem.line,
        "column": problem.column,
        "resource": { "kind": key.kind, "namespace": key.namespace, "name": key.name },
        "field": problem.field,
        "reason": problem.reason,
    })
}
