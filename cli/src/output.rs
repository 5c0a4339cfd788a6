//! What commands print: a table for people, YAML and JSON for pipelines.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns and sentences.
    Table,
    Yaml,
    Json,
}

/// For commands whose answer is not a resource: sentences or JSON.
#[derive(clap::Args, Debug, Clone, Copy)]
pub(crate) struct OutputArgs {
    /// How to print the answer.
    #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
    output: Format,
    /// The same as `-o json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl OutputArgs {
    pub(crate) fn format(self) -> Format {
        if self.json { Format::Json } else { self.output }
    }
}

/// Columns padded to their widest cell. The last one is left as it is, so that lines have no blanks at their end.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(head.iter().copied(), &widths);
    for row in rows {
        text.push_str(&line(row.iter().map(String::as_str), &widths));
    }
    text
}

fn line<'a>(cells: impl Iterator<Item = &'a str>, widths: &[usize]) -> String {
    let padded: Vec<String> = cells.zip(widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// Milliseconds since the Unix epoch as RFC 3339 with seconds; `-` for 0, which the wire uses for "never".
pub(crate) fn when(unix_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(unix_ms) {
        Ok(at) if unix_ms != 0 => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        _ => "-".to_owned(),
    }
}

pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `isthmus get all | head`: the reader has what it wanted and is gone. The library panics where it cannot print; this ends
/// as other programs do then, with what a shell shows of SIGPIPE.
pub(crate) fn end_with_its_reader() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        if said.is_some_and(|said| said.starts_with("failed printing to stdout") && said.contains("Broken pipe")) {
            std::process::exit(128 + 13);
        }
        otherwise(panic);
    }));
}

#[cfg(test)]
#[path = "output_test.rs"]
mod output_test;
