//! What a run leaves behind: the summary on the terminal, `result.json`, `junit.xml` and `report.html`.

mod date;
mod html;
mod junit;
mod plot;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::outcome::{Outcome, Phase};
use crate::scenario::Latency;
use crate::verdict::Decision;

/// Prints the summary.
pub(crate) fn print(outcome: &Outcome) {
    // Whoever closed it does not read it; the verdict is the exit code all the same.
    let _ = std::io::stdout().write_all(plain(&summary(outcome)).as_bytes());
}

/// A text without what a terminal would obey and XML 1.0 does not allow, however it is written: the service's words and
/// those of a tester's command stand in it. Line breaks and tabs stay.
pub(crate) fn plain(text: &str) -> String {
    let one = |character: char| match character {
        '\n' | '\t' => character,
        '\u{fffe}' | '\u{ffff}' => ' ',
        control if control.is_control() => ' ',
        other => other,
    };
    text.chars().map(one).collect()
}

/// Makes the folder of the reports, before a long run.
///
/// # Errors
/// Nothing can be written there.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<()> {
    let told = || format!("--out {}", folder.display());
    std::fs::create_dir_all(folder).with_context(told)?;
    let probe = folder.join("result.json.new");
    std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe)).with_context(told)
}

/// A line for the tester.
pub(crate) fn note(text: &str) {
    // Nobody reads it any more: no reason to stop.
    let _ = writeln!(std::io::stderr(), "{}", plain(text));
}

/// Writes all reports into a folder.
pub(crate) fn write(outcome: &Outcome, folder: &Path) -> anyhow::Result<()> {
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    put("result.json", serde_json::to_string_pretty(outcome)?)?;
    put("junit.xml", junit::page(outcome))?;
    put("report.html", html::page(outcome))?;
    note(&format!("reports: {}", folder.display()));
    Ok(())
}

fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_summary(&mut text, outcome);
    text
}

fn write_summary(out: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let scenario = &outcome.scenario;
    let interrupted = if outcome.interrupted { ", interrupted" } else { "" };
    writeln!(
        out,
        "\n{} against {}, {:.1} s{interrupted}\n",
        scenario.name,
        outcome.targets.join(", "),
        outcome.seconds
    )?;
    for phase in outcome.phases.iter().chain([&outcome.total]) {
        write_phase(out, phase)?;
    }
    let generator = &outcome.generator;
    if let Some(server) = &outcome.server {
        let each = server.cpu_us_per_delivery.map_or(String::new(), |us| format!(", {us:.2} µs a delivery"));
        let memory = server
            .rss_bytes_per_connection
            .map_or(String::new(), |it| format!(", {it:.0} bytes a connection"));
        writeln!(
            out,
            "server: {:.1} s of processor time{each}; {:.0} MiB at most{memory}",
            server.cpu_seconds,
            server.rss_max_bytes / 1_048_576.0
        )?;
    }
    let each = generator.cpu_us_per_delivery.map_or(String::new(), |us| format!(", {us:.2} µs a delivery"));
    writeln!(
        out,
        "generator: {} part{}, {:.1} s of processor time{each}; late by {:.2} ms (p99), {:.1} ms (max)",
        generator.parts,
        if generator.parts == 1 { "" } else { "s" },
        generator.cpu_seconds,
        generator.lag_p99_ms,
        generator.lag_max_ms
    )?;
    if let Some(percent) = outcome.total.counts.ephemeral_percent() {
        let dropped = outcome.total.counts.dropped;
        writeln!(out, "ephemeral: {percent:.1} % arrived; the service told of {dropped} that it dropped")?;
    }
    if scenario.game.is_some() {
        writeln!(
            out,
            "games: {} finished, {} achievements, {} missing",
            outcome.games_finished, outcome.achievements, outcome.achievements_missing
        )?;
    }
    if outcome.owner_changes > 0 {
        writeln!(
            out,
            "owner changes: {}; ordered messages that went with an owner: {}",
            outcome.owner_changes, outcome.ordered_lost_with_owner
        )?;
    }
    for recovery in &outcome.chaos {
        let ms = |value: Option<f64>| value.map_or("–".to_owned(), |ms| format!("{ms:.0} ms"));
        writeln!(
            out,
            "{:.1} s {} {}: {}, {}{}",
            recovery.done.at,
            recovery.done.action,
            recovery.done.whom,
            match (recovery.connections_lost, recovery.not_back) {
                (0, _) => "no connection lost".to_owned(),
                (lost, 0) =>
                    format!("{lost} connections lost, all back after {}", ms(recovery.all_back_after_ms)),
                (lost, never) => format!("{lost} connections lost, {never} of them never back"),
            },
            match recovery.silence_max_ms {
                Some(silence) => format!("longest silence of a lobby {silence:.0} ms"),
                None => "no lobby silent for a second".to_owned(),
            },
            match &recovery.done.error {
                Some(why) if recovery.done.is_interrupted() => format!("; {why}"),
                Some(error) => format!("; FAILED: {error}"),
                None => String::new(),
            }
        )?;
    }
    writeln!(out)?;
    for tested in &outcome.verdict.tested {
        writeln!(
            out,
            "{} {}: {}",
            match (tested.passed, tested.is_void) {
                (true, _) => "ok    ",
                (false, true) => "VOID  ",
                (false, false) => "MISSED",
            },
            tested.name,
            tested.text
        )?;
    }
    for fault in outcome.faults.first.iter().take(10) {
        writeln!(out, "       {fault}")?;
    }
    if generator.workers.len() > 1 || generator.parts > 1 {
        writeln!(
            out,
            "       all members of a lobby are in one part: every time is of one clock, none is corrected"
        )?;
    }
    for void in &outcome.verdict.void {
        writeln!(out, "VOID   {void}")?;
    }
    let decision = match outcome.verdict.decision {
        Decision::Passed if outcome.interrupted => "passed as far as it went: it was interrupted",
        Decision::Passed => "passed",
        Decision::Failed => "FAILED",
        Decision::Void if !generator.lost.is_empty() => "VOID: a part of the run was lost",
        Decision::Void => {
            "VOID: the generator was the bottleneck; give it more cores, more workers or less to do"
        }
    };
    writeln!(out, "\n{decision}")
}

fn write_phase(out: &mut String, phase: &Phase) -> std::fmt::Result {
    let counts = &phase.counts;
    writeln!(
        out,
        "{} ({:.0} to {:.0} s): {} joined, {} sent ({:.0}/s), {} delivered ({:.0}/s), {} errors, {} failed connects, {} lost connections, {} asked to come again, {} not sent",
        phase.name,
        phase.from,
        phase.to,
        counts.joins,
        counts.sent,
        phase.per_second(|counts| counts.sent),
        counts.deliveries + counts.caught_up,
        phase.per_second(|counts| counts.deliveries + counts.caught_up),
        counts.errors,
        counts.connect_failures,
        counts.lost_connections,
        counts.moved_connections,
        counts.unsent
    )?;
    for (latency, times) in phase.times.iter().filter(|(latency, _)| **latency != Latency::Lag) {
        writeln!(
            out,
            "  {:<9} p50 {:>9.2} ms   p90 {:>9.2}   p99 {:>9.2}   p99.9 {:>9.2}   max {:>9.2}   ({})",
            latency.name(),
            times.p50,
            times.p90,
            times.p99,
            times.p99_9,
            times.max,
            times.count
        )?;
    }
    let told: Vec<String> = phase.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if !told.is_empty() {
        // Codes are the service's words: one with a line break would begin a line that looks like ours.
        writeln!(out, "  {}", told.join(", ").replace('\n', " "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_nothing_that_it_obeys() {
        let told = "\u{1b}[31m red\u{9b}2J \r\u{7}\u{8}\u{7f}\0\ttab\nline, „Ä“ µ ⚡";
        assert_eq!(plain(told), " [31m red 2J      \ttab\nline, „Ä“ µ ⚡");
    }

    #[test]
    fn a_code_of_the_services_begins_no_line() {
        let reasons = [("error x\npassed".to_owned(), 2)].into();
        let mut text = String::new();
        write_phase(&mut text, &Phase { reasons, ..Phase::default() }).unwrap();
        assert!(text.ends_with("  error x passed 2\n"), "{text}");
    }
}
