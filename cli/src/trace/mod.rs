//! `isthmus trace`: where the time of one request went, hop by hop, from what the control plane keeps in memory while no
//! collector is configured. [`waterfall`] puts the spans in order; this asks and prints.

mod waterfall;

use std::process::ExitCode;

use isthmus_proto::admin::v1 as wire;
use isthmus_proto::traces::v1::Span;
use serde_json::{Map, Value, json};

use crate::connect::{self, Traces};
use crate::failure::{Failure, finish};
use crate::operator::OperatorArgs;
use crate::output::{Format, OutputArgs, or_dash, table, when};
use waterfall::{Row, Waterfall};

/// Show the last traces, or where the time of one of them went.
#[derive(clap::Args, Debug)]
#[command(after_help = "EXAMPLES:\n  \
    isthmus trace                    the last ones: what failed first, then what took longest\n  \
    isthmus trace 4bf92f35           one, hop by hop; the beginning of its id is enough\n  \
    isthmus trace --of shop --failed --json\n\n\
    The control plane keeps some thousand traces in memory, for an hour, while MeshConfig names no OTLP collector; each\n\
    proxy begins up to 10 a second. `isthmus tap` and the access log name traces, too.\n\n\
    EXIT STATUS: 0 shown, also where there is nothing; 1 failed, or no such trace; 2 wrong usage")]
pub(crate) struct Args {
    /// The trace's id, or how it begins (4 digits at least).
    id: Option<String>,
    /// Only traces that pass by NAMESPACE/WORKLOAD, or by anything in NAMESPACE.
    #[arg(long, value_name = "WHOM", conflicts_with = "id")]
    of: Option<String>,
    /// Only those of which something failed.
    #[arg(long, conflicts_with = "id")]
    failed: bool,
    /// How many to list.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    most: u32,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: Args, operator: &OperatorArgs) -> ExitCode {
    let format = args.output.format();
    finish(connect::block_on(trace(args, format, operator)), format)
}

async fn trace(args: Args, format: Format, operator: &OperatorArgs) -> Result<(), Failure> {
    let mut traces = Traces::connect(operator).await?;
    match args.id {
        Some(trace_id) => {
            let request = wire::GetTraceRequest { trace_id };
            let found = traces.call(async |client| client.get(request).await).await?;
            show(&found, format);
        }
        None => {
            let Args { of, failed, most, .. } = args;
            let request = wire::ListTracesRequest { of: of.unwrap_or_default(), most, failed };
            let listed = traces.call(async |client| client.list(request).await).await?;
            list(&listed, format);
        }
    }
    Ok(())
}

fn show(found: &wire::GetTraceResponse, format: Format) {
    let waterfall = Waterfall::of(&found.spans);
    match format {
        Format::Table => print!("{}", waterfall.in_words(found.hidden, width())),
        Format::Yaml | Format::Json => println!("{:#}", in_json(&waterfall, found.hidden)),
    }
}

/// Of the terminal; where there is none, what fits most.
fn width() -> usize {
    ratatui::crossterm::terminal::size().map_or(110, |(columns, _)| usize::from(columns)).clamp(80, 200)
}

fn in_json(waterfall: &Waterfall<'_>, hidden: u32) -> Value {
    let spans: Vec<Value> = waterfall.rows.iter().map(span_in_json).collect();
    json!({
        "traceId": waterfall.id(),
        "startUnixNs": waterfall.start_ns,
        "durationUs": waterfall.length_us,
        "spans": spans,
        "hidden": hidden,
    })
}

fn span_in_json(row: &Row<'_>) -> Value {
    let attributes: Map<String, Value> =
        row.span.attributes.iter().map(|of| (of.name.clone(), Value::String(of.value.clone()))).collect();
    json!({
        "spanId": waterfall::hex(&row.span.span_id),
        "parentId": waterfall::hex(&row.span.parent_id),
        "depth": row.depth,
        "name": row.span.name,
        "kind": row.kind(),
        "workload": row.workload,
        "site": row.site,
        "startUs": row.start_us,
        "durationUs": row.length_us,
        "failed": row.span.failed,
        "error": row.span.error,
        "clockMovedUs": row.moved_us,
        "attributes": attributes,
    })
}

fn list(listed: &wire::ListTracesResponse, format: Format) {
    let wire::ListTracesResponse { traces, collector, given_up } = listed;
    if format != Format::Table {
        let traces: Vec<Value> = traces.iter().map(summary_in_json).collect();
        println!("{:#}", json!({ "traces": traces, "collector": collector, "givenUp": given_up }));
        return;
    }
    match (traces.is_empty(), collector.is_empty()) {
        (false, _) => {
            let head = ["TRACE", "WHEN", "WHAT", "FROM", "TIME", "SPANS", "ERROR"];
            print!("{}", table(&head, &traces.iter().map(row).collect::<Vec<_>>()));
        }
        (true, true) => println!("no traces yet: send a request through the mesh, and ask again in two seconds"),
        (true, false) => {}
    }
    if !collector.is_empty() {
        println!("note: MeshConfig sends spans to {collector}: look for traces there");
    }
}

fn row(of: &wire::TraceSummary) -> Vec<String> {
    let first = of.first.clone().unwrap_or_default();
    vec![
        of.trace_id.clone(),
        when(of.at_unix_ms),
        what(&first),
        of.workload.clone(),
        waterfall::time(of.duration_us),
        of.spans.to_string(),
        if of.failed { or_dash(&of.error) } else { "-".to_owned() },
    ]
}

fn summary_in_json(of: &wire::TraceSummary) -> Value {
    let first = of.first.clone().unwrap_or_default();
    json!({
        "traceId": of.trace_id,
        "atUnixMs": of.at_unix_ms,
        "durationUs": of.duration_us,
        "what": what(&first),
        "workload": of.workload,
        "spans": of.spans,
        "failed": of.failed,
        "error": of.error,
    })
}

/// What a span is about: the request where it tells of one, else its name.
fn what(span: &Span) -> String {
    let attribute = |names: &[&str]| {
        let find = |name: &&str| span.attributes.iter().find(|of| of.name == **name).map(|of| of.value.as_str());
        names.iter().find_map(find)
    };
    let path = attribute(&["url.path", "http.route"]);
    let to = attribute(&["server.address"]);
    match (attribute(&["http.request.method"]), path, attribute(&["http.response.status_code"])) {
        (Some(method), path, status) => {
            let parts = [Some(method), path.or(to), status].into_iter().flatten();
            parts.collect::<Vec<_>>().join(" ")
        }
        (None, _, Some(status)) => format!("{} {} {status}", span.name, to.unwrap_or_default()),
        (None, ..) => [span.name.as_str(), to.unwrap_or_default()].join(" ").trim_end().to_owned(),
    }
}
