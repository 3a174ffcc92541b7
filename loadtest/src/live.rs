//! What a run shows while it goes on: bars and rates on a terminal, a plain line now and then elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::engine::Shared;
use crate::part::Running;
use crate::plan::PhasePlan;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Sums of all parts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) connected: u64,
    pub(crate) joined: u64,
    sent: u64,
    deliveries: u64,
    errors: u64,
    faults: u64,
    settling: u64,
}

impl Totals {
    pub(crate) fn of(parts: &[Running]) -> Totals {
        let sum = |of: fn(&Shared) -> &AtomicU64| -> u64 {
            parts.iter().map(|part| of(&part.shared).load(Ordering::Relaxed)).sum()
        };
        Totals {
            connected: sum(|shared| &shared.connected),
            joined: sum(|shared| &shared.joined),
            sent: sum(|shared| &shared.sent),
            deliveries: sum(|shared| &shared.deliveries),
            errors: sum(|shared| &shared.errors),
            faults: sum(|shared| &shared.faults),
            settling: sum(|shared| &shared.settling),
        }
    }
}

pub(crate) struct Live {
    bar: Option<ProgressBar>,
    seconds: f64,
    before: (Instant, Totals),
    rates: (f64, f64),
    last_line: Option<Instant>,
    is_quiet: bool,
}

impl Live {
    pub(crate) fn new(seconds: f64, is_quiet: bool) -> Live {
        let bar = (std::io::stderr().is_terminal() && !is_quiet).then(|| {
            let bar = ProgressBar::new((seconds * 10.0) as u64);
            let style = ProgressStyle::with_template("{bar:40.cyan/blue} {percent:>3}%  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏ "));
            bar
        });
        let before = (Instant::now(), Totals::default());
        Live { bar, seconds, before, rates: (0.0, 0.0), last_line: None, is_quiet }
    }

    /// Shows where the run is, `at` seconds from its start.
    pub(crate) fn show(&mut self, at: f64, phases: &[PhasePlan], totals: &Totals) {
        let now = Instant::now();
        let passed = now.duration_since(self.before.0).as_secs_f64();
        if passed >= 1.0 {
            let rate = |count: u64, before: u64| count.saturating_sub(before) as f64 / passed;
            let before = self.before.1;
            self.rates = (rate(totals.sent, before.sent), rate(totals.deliveries, before.deliveries));
            self.before = (now, *totals);
        }
        let micros = (at * 1e6) as u64;
        let phase = phases.iter().find(|phase| (phase.from..phase.to).contains(&micros));
        let phase =
            if totals.settling > 0 { "settling" } else { phase.map_or("settling", |phase| &phase.name) };
        let line = format!(
            "{phase}: {} of {} connected in a lobby, {:.0} sent/s, {:.0} deliveries/s, {} errors, {} breaches",
            totals.joined, totals.connected, self.rates.0, self.rates.1, totals.errors, totals.faults
        );
        if let Some(bar) = &self.bar {
            bar.set_position((at.min(self.seconds) * 10.0) as u64);
            bar.set_message(line);
            return;
        }
        let due = self.last_line.is_none_or(|last| now.duration_since(last) >= LINE_EVERY);
        if due && at > 0.5 && !self.is_quiet {
            self.last_line = Some(now);
            // Nobody reads it any more: no reason to stop.
            let _ = writeln!(std::io::stderr(), "{at:6.1} s  {line}");
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
