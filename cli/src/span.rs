//! Durations on the command line: `500ms`, `30s`, `1h`, `7d`.

use std::time::Duration;

/// Parses a positive duration. A bare number is refused: nobody remembers its unit.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write a number and a unit, such as 500ms, 30s, 10m, 1h or 7d");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        Some(0) => Err(format!("`{text}`: must be more than zero")),
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(wrong()),
    }
}

/// Whole milliseconds, or tenths where there is less than one: what `apply --wait` measured.
pub(crate) fn show_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        1_000..10_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

#[cfg(test)]
#[path = "span_test.rs"]
mod span_test;
