//! What a run shows while it goes on: bars, rates and times on a terminal, a plain line now and then elsewhere.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::engine::Shared;
use crate::part::Running;
use crate::plan::PhasePlan;
use crate::scenario::Scenario;

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Sums of all parts; of times the worst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) connected: u64,
    pub(crate) joined: u64,
    sent: u64,
    deliveries: u64,
    errors: u64,
    faults: u64,
    settling: u64,
    p50: u64,
    p99: u64,
}

impl Totals {
    pub(crate) fn of(parts: &[Running]) -> Totals {
        let values = |of: fn(&Shared) -> &AtomicU64| {
            parts.iter().map(move |part| of(&part.shared).load(Ordering::Relaxed))
        };
        let sum = |of: fn(&Shared) -> &AtomicU64| -> u64 { values(of).sum() };
        let most = |of: fn(&Shared) -> &AtomicU64| values(of).max().unwrap_or(0);
        Totals {
            connected: sum(|shared| &shared.connected),
            joined: sum(|shared| &shared.joined),
            sent: sum(|shared| &shared.sent),
            deliveries: sum(|shared| &shared.deliveries),
            errors: sum(|shared| &shared.errors),
            faults: sum(|shared| &shared.faults),
            settling: sum(|shared| &shared.settling),
            p50: most(|shared| &shared.p50),
            p99: most(|shared| &shared.p99),
        }
    }
}

/// The lines of a terminal: time, clients, and what goes on.
struct Bars {
    time: ProgressBar,
    clients: ProgressBar,
    rates: ProgressBar,
}

impl Bars {
    /// `None`: nothing can be drawn. Standard error is no terminal, or a dumb one (`TERM`).
    fn new(seconds: f64, clients: u64) -> Option<Bars> {
        let all = MultiProgress::new();
        if all.is_hidden() {
            return None;
        }
        let line = |length: u64, template: &str| {
            let bar = all.add(ProgressBar::new(length));
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            bar
        };
        Some(Bars {
            time: line((seconds * 10.0) as u64, "time    {bar:40.cyan/blue} {percent:>3}%  {msg}"),
            clients: line(clients, "clients {bar:40.green/blue} {msg}"),
            rates: line(1, "        {msg}"),
        })
    }
}

pub(crate) struct Live {
    bars: Option<Bars>,
    seconds: f64,
    clients: u32,
    before: (Instant, Totals),
    rates: (f64, f64),
    last_line: Option<Instant>,
    is_quiet: bool,
}

impl Live {
    pub(crate) fn new(scenario: &Scenario, is_quiet: bool) -> Live {
        let (seconds, clients) = (scenario.seconds(), scenario.clients.count);
        let bars = if is_quiet { None } else { Bars::new(seconds, u64::from(clients)) };
        let before = (Instant::now(), Totals::default());
        Live { bars, seconds, clients, before, rates: (0.0, 0.0), last_line: None, is_quiet }
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
        let phase = phase.filter(|_| totals.settling == 0).map_or("settling", |phase| &phase.name);
        let clients =
            format!("{} in a lobby, {} connected, of {}", totals.joined, totals.connected, self.clients);
        let ms = |micros: u64| micros as f64 / 1e3;
        let rates = format!(
            "{:.0} sent/s, {:.0} deliveries/s, p50 {:.1} ms, p99 {:.1} ms, {} errors, {} breaches",
            self.rates.0,
            self.rates.1,
            ms(totals.p50),
            ms(totals.p99),
            totals.errors,
            totals.faults
        );
        if let Some(bars) = &self.bars {
            bars.time.set_position((at.min(self.seconds) * 10.0) as u64);
            bars.time.set_message(format!("{phase}, {:.0} of {:.0} s", at.min(self.seconds), self.seconds));
            bars.clients.set_position(totals.joined);
            bars.clients.set_message(clients);
            bars.rates.set_message(rates);
            return;
        }
        let due = self.last_line.is_none_or(|last| now.duration_since(last) >= LINE_EVERY);
        if due && at > 0.5 && !self.is_quiet {
            self.last_line = Some(now);
            // Nobody reads it any more: no reason to stop.
            let _ = writeln!(std::io::stderr(), "{at:6.1} s  {phase}: {clients}; {rates}");
        }
    }

    pub(crate) fn finish(self) {
        if let Some(bars) = self.bars {
            [bars.time, bars.clients, bars.rates].iter().for_each(ProgressBar::finish_and_clear);
        }
    }
}
