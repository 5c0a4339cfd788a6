//! `isthmus policy enforce`: the one explicit step from Observe to Enforce (and back). First it shows what the step would
//! do to those who were seen.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use isthmus_certs::{Clock, SystemClock};
use isthmus_proto::admin::v1 as wire;
use serde_json::json;

use super::flows;
use super::replay;
use super::target::Target;
use super::views::Views;
use crate::connect::{Admin, Policy};
use crate::failure::Failure;
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs};
use crate::problems::{Problem, changes_text};
use crate::span;

/// Carry out the refusals of a service or namespace, after showing whom that would cut off.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus policy enforce shop/orders                   shows the replay, then asks\n  \
    isthmus policy enforce shop --yes                    a whole namespace, in a pipeline: not if anybody would break\n  \
    isthmus policy enforce shop/orders --observe --yes   back again\n\n\
    EXIT STATUS: 0 done, 4 not done because somebody would break or nobody can tell (or the answer was no), 1 failed")]
pub(super) struct Args {
    /// SERVICE, NAMESPACE/SERVICE, or NAMESPACE for all of it.
    target: String,
    /// How far to look back.
    #[arg(long, default_value = "7d", value_parser = span::parse, value_name = "DURATION")]
    last: Duration,
    /// Do not ask. Is refused where somebody would break.
    #[arg(long)]
    yes: bool,
    /// With --yes: also where somebody would break.
    #[arg(long, requires = "yes")]
    accept_breakage: bool,
    /// Only record refusals from now on.
    #[arg(long)]
    observe: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: Args, operator: &OperatorArgs) -> Result<(), Failure> {
    let target = Target::find(&args.target, operator).await?;
    let mut policy = Policy::connect(operator).await?;
    let now_ms = SystemClock.now_ms();
    let views = Views::stored(&mut policy, &[], &target.namespace, &target.service).await?;
    if views.callees.is_empty() {
        let what = format!("no workload with a sidecar is behind {}: there is nobody who could refuse", target.name());
        return Err(Failure::new(what, "`isthmus endpoints` shows who is; `isthmus token create` lets a machine join"));
    }
    let recorded = flows::fetch(&mut policy, &target, args.last, false, now_ms).await?;
    let replayed = replay::replay(&views, &recorded.flows, now_ms);
    let format = args.output.format();
    let mut answer = json!({ "ok": true, "target": target.name(), "replay": replayed.json(&recorded) });
    let risky = replayed.risks().next().is_some();
    if format != Format::Json {
        for outcome in replayed.risks() {
            println!("would break: {} → {} by {}", outcome.caller, outcome.callee, outcome.transport);
        }
        println!("{}", replayed.summary());
        replayed.gaps(&recorded).iter().for_each(|gap| println!("note: {gap}"));
    }
    if !args.observe && !may_go_on(&args, &target, risky)? {
        if format == Format::Json {
            answer["ok"] = false.into();
            answer["enforced"] = false.into();
            println!("{answer}");
        } else {
            println!("nothing was changed");
        }
        return Err(Failure::answered_no());
    }
    let applied = apply(operator, &target, args.observe).await?;
    if format == Format::Json {
        answer["enforced"] = (!args.observe).into();
        answer["revision"] = applied.revision.into();
        println!("{answer}");
    } else {
        print!("{}", changes_text(&applied.changes, false));
    }
    Ok(())
}

fn may_go_on(args: &Args, target: &Target, risky: bool) -> Result<bool, Failure> {
    if args.yes {
        return Ok(!risky || args.accept_breakage);
    }
    if !io::stdin().is_terminal() || args.output.format() == Format::Json {
        return Err(Failure::usage("there is nobody to ask", "say --yes where nobody answers"));
    }
    print!("carry out the refusals of {}? [y/N] ", target.name());
    let mut line = String::new();
    let read = io::stdout().flush().and_then(|()| io::stdin().lock().read_line(&mut line));
    read.map_err(|e| Failure::plain(format!("stdin: {e}")))?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

async fn apply(operator: &OperatorArgs, target: &Target, observe: bool) -> Result<wire::ApplyResponse, Failure> {
    let mode = if observe { "Observe" } else { "Enforce" };
    let Target { namespace, service } = target;
    let (name, services) = match service.as_str() {
        "" => ("all-services", String::new()),
        service => (service, format!("services: [{service}], ")),
    };
    let yaml = format!(
        "apiVersion: mesh.isthmus.dev/v1alpha1\nkind: Enforcement\n\
         metadata: {{ namespace: {namespace}, name: {name} }}\nspec: {{ {services}mode: {mode} }}\n"
    );
    let documents = vec![wire::Document { source: "isthmus policy enforce".to_owned(), yaml }];
    let request = wire::ApplyRequest { documents, ..Default::default() };
    let mut admin = Admin::connect(operator).await?;
    let answer = admin.call(async |client| client.apply(request).await).await?;
    match answer.problems.is_empty() {
        true => Ok(answer),
        false => Err(Failure::invalid(answer.problems.into_iter().map(Problem::from).collect())),
    }
}
