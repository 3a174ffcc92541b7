//! `loadtest compare`: two results side by side, and how much worse or better the later one is.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::outcome::{FORMAT, Outcome, Phase};
use crate::report::plain;
use crate::scenario::Latency;
use crate::verdict::Decision;

/// Differences of times below this many milliseconds are a clock's grain.
const GRAIN_MS: f64 = 0.05;

/// One number of both runs.
struct Row {
    name: String,
    before: f64,
    after: f64,
    better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    /// Times and costs.
    Less,
    /// Rates.
    More,
    /// Far percentiles are shown, and too much of chance to be judged; the generator's own lag is not the server's.
    Unjudged,
}

impl Row {
    /// Per cent by which the later run is worse; negative: better.
    fn worse(&self) -> f64 {
        let change = (self.after - self.before) / self.before.abs().max(1e-9) * 100.0;
        if self.better == Better::More { -change } else { change }
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
    // Whoever closed it does not read it; the answer is the exit code all the same.
    let _ = std::io::stdout().write_all(plain(&text).as_bytes());
    let is_void = [&before, &after].iter().any(|run| run.verdict.decision == Decision::Void);
    Ok(match fail_above {
        None => 0,
        // Numbers of a generator that could not keep up are no numbers of the server.
        Some(_) if is_void => Decision::Void.exit_code(),
        Some(_) if missed || after.verdict.decision == Decision::Failed => Decision::Failed.exit_code(),
        Some(_) => 0,
    })
}

/// Reads a bound in per cent.
///
/// # Errors
/// It is none.
pub(crate) fn bound(text: &str) -> Result<f64, String> {
    let bound = text.parse::<f64>().ok().filter(|bound| bound.is_finite() && *bound >= 0.0);
    bound.ok_or_else(|| "write a number of per cent, 0 or more".to_owned())
}

fn read(path: &Path) -> anyhow::Result<Outcome> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    parsed(&text).with_context(|| path.display().to_string())
}

fn parsed(text: &str) -> anyhow::Result<Outcome> {
    /// What every version has; the other fields are those of its own.
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
        version: Option<String>,
    }
    let Versioned { format, version } = serde_json::from_str(text).context("no result of a run")?;
    let version = version.map_or(String::new(), |version| format!(" (of loadtest {version})"));
    ensure!(
        format == FORMAT,
        "a result of format {format}{version}, and this loadtest {} reads format {FORMAT}",
        env!("CARGO_PKG_VERSION")
    );
    serde_json::from_str(text).context("no result of a run")
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
            rows.push(Row { name: name.to_owned(), before, after, better: Better::Less });
        }
    };
    let broken = |outcome: &Outcome| {
        Some(outcome.faults.total() as f64).filter(|_| before.faults.total() + after.faults.total() > 0)
    };
    add("rules broken", broken(before), broken(after));
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
        let pairs = [
            ("p50", one.p50, other.p50),
            ("p99", one.p99, other.p99),
            ("p99.9", one.p99_9, other.p99_9),
            ("max", one.max, other.max),
        ];
        for (percentile, before, after) in pairs {
            let name = format!("{name}: {} {percentile}, ms", latency.name());
            let is_judged = latency != Latency::Lag && matches!(percentile, "p50" | "p99");
            let better = if is_judged { Better::Less } else { Better::Unjudged };
            rows.push(Row { name, before, after, better });
        }
    }
    let counts = [
        ("errors", before.counts.errors, after.counts.errors),
        ("failed connects", before.counts.connect_failures, after.counts.connect_failures),
        ("lost connections", before.counts.lost_connections, after.counts.lost_connections),
        ("asked to come again", before.counts.moved_connections, after.counts.moved_connections),
        ("retries", before.counts.retries, after.counts.retries),
        ("not sent", before.counts.unsent, after.counts.unsent),
    ];
    for (what, before, after) in counts.into_iter().filter(|(_, before, after)| before + after > 0) {
        let (name, before, after) = (format!("{name}: {what}"), before as f64, after as f64);
        // A good client's repetitions are a matter of chance; what they cost is in the times.
        let better = if matches!(what, "retries" | "not sent" | "asked to come again") {
            Better::Unjudged
        } else {
            Better::Less
        };
        rows.push(Row { name, before, after, better });
    }
    let rate = |phase: &Phase| phase.per_second(|counts| counts.deliveries + counts.caught_up);
    if rate(before) > 0.0 {
        let name = format!("{name}: deliveries a second");
        rows.push(Row { name, before: rate(before), after: rate(after), better: Better::More });
    }
    if let (Some(one), Some(other)) = (before.server_cpu_us_per_delivery, after.server_cpu_us_per_delivery) {
        let name = format!("{name}: server CPU a delivery, µs");
        rows.push(Row { name, before: one, after: other, better: Better::Less });
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
        let is_judged = !is_grain && row.better != Better::Unjudged;
        let over = fail_above.is_some_and(|bound| worse > bound) && is_judged;
        missed |= over;
        let change = match row.before == 0.0 && row.after != 0.0 {
            true => "new".to_owned(),
            false => format!("{:+.1} % {}", worse.abs() * (row.after - row.before).signum(), word(worse)),
        };
        let mark = if over { "  WORSE" } else { "" };
        let _ =
            writeln!(out, "{:<width$}  {:>12.3}  {:>12.3}  {change}{mark}", row.name, row.before, row.after);
    }
    for (name, outcome) in [("before", before), ("after", after)] {
        let decision = outcome.verdict.exit_code;
        if decision != 0 {
            let _ = writeln!(out, "\nThe run {name} had not passed (exit code {decision}).");
        }
        if outcome.interrupted {
            let planned = outcome.scenario.seconds();
            let _ = writeln!(
                out,
                "\nThe run {name} was interrupted after {:.0} of {planned:.0} s: its numbers are of that time.",
                outcome.total.to
            );
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
    fn a_bound_is_a_number() {
        assert_eq!(bound("12.5"), Ok(12.5));
        for text in ["", "nan", "inf", "-1", "20%"] {
            assert!(bound(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_result_of_another_version_is_told_as_such() {
        for (text, told) in [
            (
                "{\"format\":7,\"version\":\"9.1.0\",\"new\":1}",
                "format 7 (of loadtest 9.1.0), and this loadtest ",
            ),
            ("{\"format\":0}", "a result of format 0, and this loadtest "),
            ("{\"format\":1}", "missing field"),
            ("{}", "no result of a run: missing field `format`"),
            ("chat", "no result of a run"),
        ] {
            let error = format!("{:#}", parsed(text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
            assert_eq!(error.contains("missing field"), told.contains("missing field"), "{text}: {error}");
        }
    }

    #[test]
    fn a_rate_is_better_when_it_grows_and_a_time_when_it_shrinks() {
        let row = |better| Row { name: String::new(), before: 100.0, after: 110.0, better };
        assert_eq!(row(Better::Less).worse().round(), 10.0);
        assert_eq!(row(Better::More).worse().round(), -10.0);
    }
}
