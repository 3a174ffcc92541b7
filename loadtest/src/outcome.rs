//! The outcome of a run: all parts merged, in the shape of `result.json`. Reports and comparisons read only this.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chaos::Done;
use crate::engine::{Faults, PartResult};
use crate::measure::{Counts, PhaseMeasure, Second, Times, merge_seconds};
use crate::plan::{Micros, Plan};
use crate::scenario::{Latency, Scenario};
use crate::server::Usage;
use crate::verdict::Verdict;

/// Version of `result.json`.
pub(crate) const FORMAT: u32 = 1;

/// Percentiles of the curve.
const CURVE: [f64; 17] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 80.0, 90.0, 95.0, 97.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0,
];

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) format: u32,
    pub(crate) version: String,
    pub(crate) run: String,
    /// Unix milliseconds.
    pub(crate) started_at: u64,
    pub(crate) seconds: f64,
    pub(crate) targets: Vec<String>,
    pub(crate) scenario: Scenario,
    pub(crate) interrupted: bool,
    pub(crate) verdict: Verdict,
    pub(crate) phases: Vec<Phase>,
    /// The whole run.
    pub(crate) total: Phase,
    pub(crate) series: Vec<Point>,
    pub(crate) faults: Faults,
    /// Ordered messages that died with their owner, which the protocol allows.
    pub(crate) ordered_lost_with_owner: u64,
    pub(crate) owner_changes: u64,
    pub(crate) games_finished: u64,
    pub(crate) achievements: u64,
    pub(crate) achievements_missing: u64,
    /// Clients that were to be in their lobbies at the end, and were not.
    #[serde(default)]
    pub(crate) clients_missing: u64,
    /// Durable messages that were due and never got their ok.
    #[serde(default)]
    pub(crate) unaccepted: u64,
    pub(crate) chaos: Vec<Recovery>,
    pub(crate) server: Option<Server>,
    pub(crate) generator: Load,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) counts: Counts,
    /// Of them, what came behind the planned end.
    #[serde(default)]
    pub(crate) late: Counts,
    /// Of the part of the load test that was late most.
    #[serde(default)]
    pub(crate) lag_p99_ms: f64,
    pub(crate) times: BTreeMap<Latency, Summary>,
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) server_cpu_us_per_delivery: Option<f64>,
}

impl Phase {
    pub(crate) fn seconds(&self) -> f64 {
        (self.to - self.from).max(1e-3)
    }

    /// How many of these came a second, in the planned time.
    pub(crate) fn per_second(&self, of: impl Fn(&Counts) -> u64) -> f64 {
        of(&self.counts.since(&self.late)) as f64 / self.seconds()
    }
}

/// Milliseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) max: f64,
    /// Percentile and milliseconds.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Summary {
    /// `more`: percentiles that the curve must have beside its own.
    pub(crate) fn of(times: &Times, more: &[f64]) -> Summary {
        let mut points = [&CURVE, more].concat();
        points.sort_by(f64::total_cmp);
        points.dedup();
        let at = |percentile| times.percentile(percentile).unwrap_or(0.0);
        Summary {
            count: times.count(),
            mean: times.mean(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p99_9: at(99.9),
            max: at(100.0),
            curve: points.iter().map(|percentile| (*percentile, at(*percentile))).collect(),
        }
    }
}

/// One second.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) second: u64,
    pub(crate) joined: u64,
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    pub(crate) deliveries: u64,
    pub(crate) errors: u64,
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) lag_max: f64,
}

impl Point {
    fn new(second: u64, measured: &Second) -> Point {
        let Second { counts, joined, delivery, lag_max } = measured;
        Point {
            second,
            joined: *joined,
            sent: counts.sent,
            ok: counts.ok,
            deliveries: counts.deliveries + counts.caught_up,
            errors: counts.errors + counts.connect_failures,
            p50: delivery.percentile(50.0),
            p90: delivery.percentile(90.0),
            p99: delivery.percentile(99.0),
            max: delivery.percentile(100.0),
            lag_max: *lag_max as f64 / 1e3,
        }
    }
}

/// What followed one fault, until the next one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Recovery {
    #[serde(flatten)]
    pub(crate) done: Done,
    pub(crate) connections_lost: u64,
    /// Clients that never came back.
    pub(crate) not_back: u64,
    /// Milliseconds from the fault until the last client was back.
    pub(crate) all_back_after_ms: Option<f64>,
    /// Milliseconds that clients were away: the median and the longest.
    pub(crate) away_p50_ms: Option<f64>,
    pub(crate) away_max_ms: Option<f64>,
    /// Lobbies with traffic that heard nothing for over a second, and the longest silence in milliseconds.
    pub(crate) silent_lobbies: u64,
    pub(crate) silence_max_ms: Option<f64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Server {
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_us_per_delivery: Option<f64>,
    pub(crate) rss_begin_bytes: f64,
    pub(crate) rss_max_bytes: f64,
    /// What was added for each connection when the most were there.
    pub(crate) rss_bytes_per_connection: Option<f64>,
}

/// The generator itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) parts: usize,
    /// Other machines or processes that took part.
    pub(crate) workers: Vec<String>,
    /// Parts without a result, and why.
    #[serde(default)]
    pub(crate) lost: Vec<String>,
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_us_per_delivery: Option<f64>,
    pub(crate) lag_p99_ms: f64,
    pub(crate) lag_max_ms: f64,
    pub(crate) checked_bytes: u64,
}

/// Looks at the servers, and how many sessions there were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) at: Micros,
    pub(crate) joined: u64,
    pub(crate) usage: Usage,
}

/// Everything that a run brings together.
pub(crate) struct Gathered<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) run: String,
    pub(crate) started_at: u64,
    pub(crate) targets: Vec<String>,
    pub(crate) workers: Vec<String>,
    pub(crate) lost: Vec<String>,
    pub(crate) interrupted: bool,
    pub(crate) parts: Vec<PartResult>,
    pub(crate) chaos: Vec<Done>,
    pub(crate) looks: Vec<Look>,
}

impl Outcome {
    pub(crate) fn new(gathered: Gathered<'_>) -> Outcome {
        let Gathered { scenario, run, started_at, targets, workers, lost, interrupted, parts, chaos, looks } =
            gathered;
        let ended = parts.iter().map(|part| part.ended_at).max().unwrap_or(0);
        let over = parts.iter().map(|part| part.over_at).max().unwrap_or(0);
        let mut merged: Vec<PhaseMeasure> = Vec::new();
        let mut lags: Vec<f64> = Vec::new();
        let mut total = PhaseMeasure::default();
        let mut seconds = Vec::new();
        let mut faults = Faults::default();
        for part in &parts {
            merged.resize(merged.len().max(part.phases.len()), PhaseMeasure::default());
            lags.resize(merged.len(), 0.0);
            for ((into, lag), phase) in merged.iter_mut().zip(&mut lags).zip(&part.phases) {
                // Judged by itself: beside a part that sends much, one that is always late would not be seen.
                let own = phase.times.get(&Latency::Lag).and_then(|times| times.percentile(99.0));
                *lag = lag.max(own.unwrap_or(0.0));
                into.merge(phase);
                total.merge(phase);
            }
            merge_seconds(&mut seconds, &part.seconds);
            faults.merge(&part.faults);
        }
        let asked: Vec<f64> =
            scenario.thresholds.iter().filter_map(|threshold| threshold.percentile()).collect();
        let plan = Plan::new(scenario, 1);
        let planned = plan.phases.iter().enumerate().zip(&merged);
        let phases: Vec<Phase> = planned
            .map(|((index, plan), measured)| {
                // The last one lasts until everything has settled; rates count the planned time.
                let to = if index + 1 == merged.len() { plan.to.min(over) } else { plan.to };
                let phase = phase(&plan.name, plan.from, to.max(plan.from), measured, &looks, &asked);
                Phase { lag_p99_ms: lags[index], ..phase }
            })
            .collect();
        let end = phases.last().map_or(0.0, |phase| phase.to);
        let total = phase("all", 0, (end * 1e6) as Micros, &total, &looks, &asked);
        let total = Phase { lag_p99_ms: lags.iter().copied().fold(0.0, f64::max), ..total };
        let sum = |of: fn(&PartResult) -> u64| parts.iter().map(of).sum::<u64>();
        let deliveries = total.counts.deliveries + total.counts.caught_up;
        let cpu_seconds: f64 = parts.iter().map(|part| part.cpu_seconds).sum();
        let lag = total.times.get(&Latency::Lag).cloned().unwrap_or_default();
        let each = |seconds: f64| (deliveries > 0).then(|| seconds * 1e6 / deliveries as f64);
        Outcome {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run,
            started_at,
            seconds: ended as f64 / 1e6,
            targets,
            scenario: scenario.clone(),
            // Whose phases were over has brought what it was to bring.
            interrupted: interrupted && over < plan.end(),
            verdict: Verdict::default(),
            series: seconds
                .iter()
                .enumerate()
                .map(|(index, second)| Point::new(index as u64 + 1, second))
                .collect(),
            ordered_lost_with_owner: sum(|part| part.lost_excused),
            owner_changes: sum(|part| part.owner_changes),
            games_finished: sum(|part| part.games_finished),
            achievements: sum(|part| part.achievements),
            achievements_missing: sum(|part| part.achievements_missing),
            clients_missing: sum(|part| part.missing),
            unaccepted: sum(|part| part.unaccepted),
            chaos: recoveries(&chaos, &parts),
            server: server(&looks, chaos.first().map_or(Micros::MAX, |done| (done.at * 1e6) as Micros), each),
            generator: Load {
                parts: parts.len(),
                workers,
                lost,
                cpu_seconds,
                cpu_us_per_delivery: each(cpu_seconds),
                lag_p99_ms: total.lag_p99_ms,
                lag_max_ms: lag.max,
                checked_bytes: sum(|part| part.checked_bytes),
            },
            phases,
            total,
            faults,
        }
    }
}

fn phase(
    name: &str,
    from: Micros,
    to: Micros,
    measured: &PhaseMeasure,
    looks: &[Look],
    asked: &[f64],
) -> Phase {
    // What came late cost its time behind the last look.
    let in_time = measured.counts.since(&measured.late);
    let deliveries = in_time.deliveries + in_time.caught_up;
    let near = |at: Micros| looks.iter().min_by_key(|look| look.at.abs_diff(at));
    let cpu = near(from).zip(near(to)).map(|(first, last)| last.usage.cpu_seconds - first.usage.cpu_seconds);
    Phase {
        name: name.to_owned(),
        from: from as f64 / 1e6,
        to: to as f64 / 1e6,
        counts: measured.counts,
        late: measured.late,
        lag_p99_ms: 0.0,
        times: measured.times.iter().map(|(latency, times)| (*latency, Summary::of(times, asked))).collect(),
        reasons: measured.reasons.clone(),
        server_cpu_us_per_delivery: cpu
            .filter(|_| deliveries > 0)
            .map(|cpu| cpu.max(0.0) * 1e6 / deliveries as f64),
    }
}

/// `undisturbed`: until when no server was harmed; memory of dead and new processes says nothing of connections.
fn server(looks: &[Look], undisturbed: Micros, each: impl Fn(f64) -> Option<f64>) -> Option<Server> {
    let (first, last) = (looks.first()?, looks.last()?);
    let fullest = looks.iter().filter(|look| look.at < undisturbed).max_by_key(|look| look.joined)?;
    let cpu_seconds = last.usage.cpu_seconds - first.usage.cpu_seconds;
    let added = fullest.usage.rss_bytes - first.usage.rss_bytes;
    Some(Server {
        cpu_seconds,
        cpu_us_per_delivery: each(cpu_seconds),
        rss_begin_bytes: first.usage.rss_bytes,
        rss_max_bytes: looks.iter().map(|look| look.usage.rss_bytes).fold(0.0, f64::max),
        rss_bytes_per_connection: (fullest.joined > first.joined && added >= 0.0)
            .then(|| added / (fullest.joined - first.joined) as f64),
    })
}

fn recoveries(chaos: &[Done], parts: &[PartResult]) -> Vec<Recovery> {
    let mut recoveries = Vec::new();
    for (index, done) in chaos.iter().enumerate() {
        let from = (done.at * 1e6) as Micros;
        let to = chaos.get(index + 1).map_or(Micros::MAX, |next| (next.at * 1e6) as Micros);
        let within = |at: &Micros| (from..to).contains(at);
        let outages: Vec<_> =
            parts.iter().flat_map(|part| &part.outages).filter(|(lost, _)| within(lost)).collect();
        let back = outages.iter().filter_map(|(_, back)| *back).max();
        let mut away = Times::default();
        outages.iter().for_each(|(lost, back)| {
            if let Some(back) = back {
                away.add(back - lost);
            }
        });
        // A silence that this fault falls into, or to whose beginning it is nearest.
        let is_nearest = |begin: Micros| {
            let distance = |done: &&Done| ((done.at * 1e6) as Micros).abs_diff(begin);
            chaos.iter().min_by_key(distance).is_some_and(|nearest| nearest.at == done.at)
        };
        let silences: Vec<Micros> = parts
            .iter()
            .flat_map(|part| &part.silences)
            .filter(|(begin, end)| *end > from && ((*begin..*end).contains(&from) || is_nearest(*begin)))
            .map(|(begin, end)| end - (*begin).max(from))
            .collect();
        recoveries.push(Recovery {
            done: done.clone(),
            connections_lost: outages.len() as u64,
            not_back: outages.iter().filter(|(_, back)| back.is_none()).count() as u64,
            all_back_after_ms: back.map(|back| (back - from) as f64 / 1e3),
            away_p50_ms: away.percentile(50.0),
            away_max_ms: away.percentile(100.0),
            silent_lobbies: silences.len() as u64,
            silence_max_ms: silences.iter().max().map(|silence| *silence as f64 / 1e3),
        });
    }
    recoveries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_that_a_threshold_asks_for_is_exact() {
        let mut times = Times::default();
        (1..=1_000).for_each(|ms| times.add(ms * 1_000));
        let summary = Summary::of(&times, &[60.0, 99.0]);
        let at = |wanted| summary.curve.iter().filter(move |(at, _)| *at == wanted).map(|(_, ms)| ms.round());
        assert_eq!(at(60.0).collect::<Vec<_>>(), [600.0]);
        assert_eq!(at(99.0).count(), 1, "not twice");
        assert!(summary.curve.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn a_fault_is_told_with_what_followed_until_the_next() {
        let done = |at| Done { at, action: "kill".into(), whom: "process 7".into(), error: None };
        let part = PartResult {
            outages: vec![(2_100_000, Some(3_000_000)), (2_200_000, None), (9_000_000, Some(9_500_000))],
            silences: vec![(1_900_000, 4_000_000), (7_990_000, 9_000_000)],
            ..PartResult::default()
        };
        let told = recoveries(&[done(2.0), done(8.0)], &[part]);
        assert_eq!((told[0].connections_lost, told[0].not_back), (2, 1));
        assert_eq!(told[0].all_back_after_ms, Some(1_000.0));
        assert_eq!((told[0].silent_lobbies, told[0].silence_max_ms), (1, Some(2_000.0)));
        assert_eq!((told[1].connections_lost, told[1].silence_max_ms), (1, Some(1_000.0)));
    }
}
