//! In which form a page is answered: what the scraper's `Accept` likes best of what we have. One that cannot be read, or
//! that likes nothing of it, gets the text that everybody reads.

use http::HeaderMap;
use http::header::ACCEPT;

/// Longer ones are not read.
const LONGEST: usize = 2_048;
const MOST_RANGES: usize = 16;

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Prometheus text, version 0.0.4.
    Text,
    /// OpenMetrics text, version 1.0.0: with exemplars.
    OpenMetrics,
    /// Delimited protocol buffers: with exemplars and native histograms.
    Protobuf,
}

impl Form {
    /// By the headers of a request.
    pub fn wanted(headers: &HeaderMap) -> Form {
        let mut lines = headers.get_all(ACCEPT).into_iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return Form::Text };
        line.to_str().ok().filter(|line| line.len() <= LONGEST).map_or(Form::Text, Form::read)
    }

    /// The media type of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    /// The best by its weight; of the same weight the one that comes first.
    fn read(line: &str) -> Form {
        let mut best = (0, Form::Text);
        for range in line.split(',').take(MOST_RANGES) {
            if let Some((weight, form)) = range_of(range)
                && weight > best.0
            {
                best = (weight, form);
            }
        }
        best.1
    }
}

/// A range that we can answer, with its weight in thousandths.
fn range_of(range: &str) -> Option<(u32, Form)> {
    let mut parts = range.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let (mut weight, mut version, mut proto, mut encoding) = (1_000, None, None, None);
    for part in parts {
        let Some((name, value)) = part.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => weight = thousandths(value)?,
            "version" => version = Some(value),
            "proto" => proto = Some(value),
            "encoding" => encoding = Some(value),
            _ => {}
        }
    }
    let form = match media.as_str() {
        "application/vnd.google.protobuf"
            if proto == Some("io.prometheus.client.MetricFamily") && encoding == Some("delimited") =>
        {
            Form::Protobuf
        }
        "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => Form::OpenMetrics,
        "text/plain" if version.is_none_or(|version| version == "0.0.4") => Form::Text,
        "text/*" | "*/*" => Form::Text,
        _ => return None,
    };
    Some((weight, form))
}

/// RFC 9110, 12.4.2: 0 to 1 with up to three digits.
fn thousandths(text: &str) -> Option<u32> {
    let weight: f64 = text.parse().ok()?;
    (0.0..=1.0).contains(&weight).then(|| (weight * 1_000.0).round() as u32)
}

#[cfg(test)]
#[path = "accept_test.rs"]
mod accept_test;
