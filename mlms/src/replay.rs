//! `mlms replay`: awards an achievement for what has happened before its rule was there.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use mlms_achievements::{Progress, Rules};
use mlms_process::config::SharedFlags;
use serde_json::json;

use crate::tool;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The achievement, as the rules name it
    #[arg(long, value_name = "NAME")]
    rule: String,
    /// Change nothing; list who would gain it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: SharedFlags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = tool::settings(&arguments.flags)?;
    let rules = Rules::load(settings.achievement_rules.as_deref())?;
    let rule = rules.find(&arguments.rule).with_context(|| {
        let names: Vec<_> = rules.names().collect();
        format!("there is no rule {}; there are: {}", arguments.rule, names.join(", "))
    })?;
    let mut bar = Bar::new();
    let gained = tool::run(async {
        let store = tool::open(&settings).await?;
        let tell = |progress| bar.tell(progress);
        Ok(mlms_achievements::replay(&store, rule, arguments.dry_run, tell).await?)
    })?;
    bar.finish();
    if arguments.json {
        let players: Vec<_> =
            gained.iter().map(|(user, value)| json!({"user": user, "value": value})).collect();
        let Progress { lobbies, events, .. } = bar.last;
        let report = json!({
            "rule": rule.achievement, "dry_run": arguments.dry_run, "lobbies": lobbies, "events": events,
            "gained": players,
        });
        return crate::print(&format!("{report}\n"));
    }
    let verb = if arguments.dry_run { "would gain" } else { "gained" };
    let mut text = format!("{} {verb} {}\n", gained.len(), rule.achievement);
    for (user, value) in &gained {
        text += &format!("{user}\t{value}\n");
    }
    crate::print(&text)
}

/// How far it is, on one line of a terminal, or a line now and then in a log.
struct Bar {
    began: Instant,
    told: Option<Instant>,
    pause: Duration,
    in_terminal: bool,
    last: Progress,
}

impl Bar {
    fn new() -> Self {
        let in_terminal = std::io::stderr().is_terminal();
        let pause = if in_terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        Bar { began: Instant::now(), told: None, pause, in_terminal, last: Progress::default() }
    }

    fn tell(&mut self, progress: Progress) {
        self.last = progress;
        if self.told.is_some_and(|told| told.elapsed() < self.pause) {
            return;
        }
        self.told = Some(Instant::now());
        self.show();
    }

    #[expect(clippy::print_stderr, reason = "the progress of a command line tool")]
    fn show(&self) {
        let line = line(self.last, self.began.elapsed());
        if self.in_terminal { eprint!("\r\x1b[K{line}") } else { eprintln!("{line}") }
    }

    #[expect(clippy::print_stderr, reason = "the progress of a command line tool")]
    fn finish(&self) {
        self.show();
        if self.in_terminal {
            eprintln!();
        }
    }
}

fn line(progress: Progress, elapsed: Duration) -> String {
    const WIDTH: usize = 30;
    let Progress { lobbies, lobbies_total, events } = progress;
    let total = lobbies_total.max(lobbies).max(1);
    let done = lobbies as f64 / total as f64;
    let rate = events as f64 / elapsed.as_secs_f64().max(0.001);
    let full = (done * WIDTH as f64) as usize;
    let left = match lobbies {
        0 => "?".to_owned(),
        _ => format!("{:.0} s", elapsed.as_secs_f64() * (1.0 - done) / done),
    };
    format!(
        "[{}{}] {lobbies}/{total} lobbies, {events} events, {rate:.0} events/s, {left} left",
        "#".repeat(full),
        "-".repeat(WIDTH - full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long() {
        let progress = Progress { lobbies: 25, lobbies_total: 100, events: 5_000 };
        let shown = line(progress, Duration::from_secs(10));
        assert!(shown.ends_with("] 25/100 lobbies, 5000 events, 500 events/s, 30 s left"), "{shown}");
        assert!(
            line(Progress::default(), Duration::ZERO).ends_with("0/1 lobbies, 0 events, 0 events/s, ? left")
        );
    }
}
