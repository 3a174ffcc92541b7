//! `loadtest compare`: two results side by side, and how much worse or better the later one is.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::outcome::{FORMAT, Outcome, Phase};
use crate::scenario::Latency;

/// Differences of times below this many milliseconds are a clock's grain.
const GRAIN_MS: f64 = 0.05;

/// One number of both runs.
struct Row {
    name: String,
    before: f64,
    after: f64,
    /// More is better.
    is_rate: bool,
}

impl Row {
    /// Per cent by which the later run is worse; negative: better.
    fn worse(&self) -> f64 {
        let change = (self.after - self.before) / self.before.abs().max(1e-9) * 100.0;
        if self.is_rate { -change } else { change }
    }
}

/// Prints the comparison; gives the exit code.
///
/// # Errors
/// A file cannot be read, or the runs share nothing.
pub(crate) fn run(before: &Path, after: &Path, fail_above: Option<f64>) -> anyhow::Result<u8> {
    let (before, after) = (read(before)?, read(after)?);
    let rows = rows(&before, &after);
    ensure!(!rows.is_empty(), "the two runs have no phase and nothing measured in common");
    let (text, missed) = compared(&before, &after, &rows, fail_above);
    std::io::stdout().write_all(text.as_bytes()).context("the output is closed")?;
    Ok(if missed { 2 } else { 0 })
}

fn read(path: &Path) -> anyhow::Result<Outcome> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let outcome: Outcome =
        serde_json::from_str(&text).with_context(|| format!("{} is no result", path.display()))?;
    ensure!(
        outcome.format == FORMAT,
        "{} has format {}, this program reads {FORMAT}",
        path.display(),
        outcome.format
    );
    Ok(outcome)
}

fn rows(before: &Outcome, after: &Outcome) -> Vec<Row> {
    let mut rows = Vec::new();
    let pairs = before.phases.iter().chain([&before.total]).filter_map(|phase| {
        let other = after.phases.iter().chain([&after.total]).find(|other| other.name == phase.name)?;
        Some((phase, other))
    });
    for (before, after) in pairs {
        phase_rows(before, after, &mut rows);
    }
    let mut add = |name: &str, before: Option<f64>, after: Option<f64>| {
        if let (Some(before), Some(after)) = (before, after) {
            rows.push(Row { name: name.to_owned(), before, after, is_rate: false });
        }
    };
    let memory =
        |outcome: &Outcome| outcome.server.as_ref().and_then(|server| server.rss_bytes_per_connection);
    add("server memory a connection, bytes", memory(before), memory(after));
    rows
}

fn phase_rows(before: &Phase, after: &Phase, rows: &mut Vec<Row>) {
    let name = &before.name;
    for latency in Latency::ALL {
        let (Some(one), Some(other)) = (before.times.get(&latency), after.times.get(&latency)) else {
            continue;
        };
        for (percentile, before, after) in [("p50", one.p50, other.p50), ("p99", one.p99, other.p99)] {
            let name = format!("{name}: {} {percentile}, ms", latency.name());
            rows.push(Row { name, before, after, is_rate: false });
        }
    }
    let rate = |phase: &Phase| phase.per_second(phase.counts.deliveries + phase.counts.caught_up);
    if rate(before) > 0.0 {
        let name = format!("{name}: deliveries a second");
        rows.push(Row { name, before: rate(before), after: rate(after), is_rate: true });
    }
    if let (Some(one), Some(other)) = (before.server_cpu_us_per_delivery, after.server_cpu_us_per_delivery) {
        let name = format!("{name}: server CPU a delivery, µs");
        rows.push(Row { name, before: one, after: other, is_rate: false });
    }
}

fn compared(before: &Outcome, after: &Outcome, rows: &[Row], fail_above: Option<f64>) -> (String, bool) {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} ({}) against {} ({})\n",
        after.scenario.name, after.run, before.scenario.name, before.run
    );
    let one = serde_json::to_value(&before.scenario).unwrap_or_default();
    if one != serde_json::to_value(&after.scenario).unwrap_or_default() {
        out.push_str("The scenarios differ: the numbers may not be comparable.\n\n");
    }
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut missed = false;
    for row in rows {
        let worse = row.worse();
        let is_grain = row.name.ends_with("ms") && (row.after - row.before).abs() < GRAIN_MS;
        let over = fail_above.is_some_and(|bound| worse > bound) && !is_grain && !row.name.contains(": lag ");
        missed |= over;
        let change = format!("{:+.1} % {}", worse.abs() * (row.after - row.before).signum(), word(worse));
        let mark = if over { "  WORSE" } else { "" };
        let _ =
            writeln!(out, "{:<width$}  {:>12.3}  {:>12.3}  {change}{mark}", row.name, row.before, row.after);
    }
    for (name, outcome) in [("before", before), ("after", after)] {
        let decision = outcome.verdict.exit_code;
        if decision != 0 {
            let _ = writeln!(out, "\nThe run {name} had not passed (exit code {decision}).");
        }
    }
    (out, missed)
}

fn word(worse: f64) -> &'static str {
    match worse {
        more if more > 0.5 => "worse",
        less if less < -0.5 => "better",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_better_when_it_grows_and_a_time_when_it_shrinks() {
        let row = |is_rate| Row { name: String::new(), before: 100.0, after: 110.0, is_rate };
        assert_eq!(row(false).worse().round(), 10.0);
        assert_eq!(row(true).worse().round(), -10.0);
    }
}
