//! Whether a run passed: the rules, the thresholds, and whether the generator was fit to judge. One exit code each.

use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, Phase};
use crate::plan::Plan;
use crate::scenario::{Check, Latency, Threshold};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Decision {
    #[default]
    Passed,
    /// A rule was broken or a threshold missed.
    Failed,
    /// The generator itself was too slow: the numbers say nothing about the server.
    Void,
}

impl Decision {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Decision::Passed => 0,
            Decision::Failed => 2,
            Decision::Void => 3,
        }
    }
}

/// One thing that was held against its bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tested {
    pub(crate) name: String,
    /// `None`: there was nothing to measure.
    pub(crate) value: Option<f64>,
    pub(crate) passed: bool,
    /// It was missed, and the generator's own lag may be why: nothing is said of the server.
    #[serde(default)]
    pub(crate) is_void: bool,
    pub(crate) text: String,
}

impl Tested {
    fn missed(name: String, value: Option<f64>, text: String) -> Tested {
        Tested { name, value, passed: false, is_void: false, text }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) decision: Decision,
    pub(crate) exit_code: u8,
    /// Why it is void.
    pub(crate) void: Vec<String>,
    pub(crate) tested: Vec<Tested>,
}

impl Verdict {
    pub(crate) fn of(outcome: &Outcome) -> Verdict {
        let mut tested = vec![rules(outcome)];
        tested.extend(outcome.scenario.thresholds.iter().map(|threshold| test(threshold, outcome)));
        if !outcome.interrupted {
            tested.extend(missing(outcome));
        }
        for recovery in outcome.chaos.iter().filter(|recovery| recovery.done.error.is_some()) {
            let error = recovery.done.error.clone().unwrap_or_default();
            let name = format!("chaos: {} {}", recovery.done.action, recovery.done.whom);
            let passed = recovery.done.is_interrupted();
            tested.push(Tested { passed, ..Tested::missed(name, None, error) });
        }
        let void = void(outcome);
        // What was delivered wrong is wrong however slowly it was looked at; what was missed may only not have been seen.
        let decision = if outcome.faults.delivered_wrong() > 0 {
            Decision::Failed
        } else if !void.is_empty() {
            Decision::Void
        } else if tested.iter().any(|tested| !tested.passed && !tested.is_void) {
            Decision::Failed
        } else if tested.iter().any(|tested| tested.is_void) {
            Decision::Void
        } else {
            Decision::Passed
        };
        Verdict { decision, exit_code: decision.exit_code(), void, tested }
    }
}

/// What every run is to bring by its end, whatever its thresholds are; those that it did not.
fn missing(outcome: &Outcome) -> impl Iterator<Item = Tested> {
    let counts = &outcome.total.counts;
    let nothing_accepted = if counts.ok == 0 { counts.sent } else { 0 };
    let bounds = [
        ("everybody is in a lobby at the end", outcome.clients_missing, "clients are not"),
        ("every durable message is accepted in the end", outcome.unaccepted, "are not"),
        ("messages are accepted", nothing_accepted, "were sent, and none was"),
    ];
    bounds.into_iter().filter(|(_, count, _)| *count > 0).map(|(name, count, what)| {
        Tested::missed(name.to_owned(), Some(count as f64), format!("{count} {what}"))
    })
}

fn rules(outcome: &Outcome) -> Tested {
    let faults = &outcome.faults;
    let told: Vec<String> = faults.counts.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
    let deliveries = outcome.total.counts.deliveries + outcome.total.counts.caught_up;
    let text = match told.is_empty() {
        true => format!("{deliveries} deliveries checked"),
        false => told.join(", "),
    };
    let (value, passed) = (Some(faults.total() as f64), faults.total() == 0);
    Tested { name: "rules".to_owned(), value, passed, is_void: false, text }
}

fn void(outcome: &Outcome) -> Vec<String> {
    let bound = outcome.scenario.generator.lag_p99_ms;
    let late = |phase: &Phase| {
        let (name, p99) = (&phase.name, phase.lag_p99_ms);
        (p99 > bound).then(|| {
            format!("phase {name}: the generator was {p99:.1} ms late at the 99th percentile; more than {bound} ms makes a run void")
        })
    };
    let lost = outcome.generator.lost.iter().map(|why| format!("a part of the run was lost: {why}"));
    outcome.phases.iter().filter_map(late).chain(lost).collect()
}

fn test(threshold: &Threshold, outcome: &Outcome) -> Tested {
    let phase = match &threshold.phase {
        Some(name) => outcome.phases.iter().find(|phase| phase.name == *name),
        None => Some(&outcome.total),
    };
    let value = phase.and_then(|phase| value(threshold.check, phase, outcome));
    // What a run was to bring by its end says nothing when there was no end.
    let is_total =
        matches!(threshold.check, Check::Count("games_missing" | "games_finished" | "achievements_missing"));
    let value = value.filter(|_| !(outcome.interrupted && is_total));
    let passed = value.map_or(outcome.interrupted, |value| threshold.holds(value));
    let late = value.filter(|_| !passed).zip(phase).and_then(|(value, phase)| {
        let bound = outcome.scenario.generator.lag_p99_ms;
        excuse(threshold, value, phase, bound).map(|lag| (lag, bound))
    });
    let text = match value {
        Some(value) => match late {
            Some((lag, bound)) => format!(
                "measured {}; void, as the generator itself was {lag:.1} ms late at this percentile, more than {bound} ms",
                rounded(value)
            ),
            None => format!("measured {}", rounded(value)),
        },
        None if outcome.interrupted => "not judged, as the run was interrupted".to_owned(),
        None => "there was nothing to measure".to_owned(),
    };
    Tested { name: threshold.to_string(), value, passed, is_void: late.is_some(), text }
}

/// The generator's own lag, in milliseconds, where it may be why a time missed its threshold: at the threshold's
/// percentile it is above the bound, and without it the threshold would hold. A time holds it twice at most: of the
/// sending, and of the arrival.
fn excuse(threshold: &Threshold, value: f64, phase: &Phase, bound: f64) -> Option<f64> {
    let lag = curve_at(&phase.times.get(&Latency::Lag)?.curve, threshold.percentile()?);
    (lag > bound && threshold.holds(value - 2.0 * lag)).then_some(lag)
}

fn rounded(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn value(check: Check, phase: &Phase, outcome: &Outcome) -> Option<f64> {
    let counts = &phase.counts;
    match check {
        Check::Percentile(latency, percentile) => {
            let summary = phase.times.get(&latency)?;
            Some(curve_at(&summary.curve, percentile))
        }
        Check::Count(name) => Some(match name {
            "errors" => counts.errors as f64,
            "connect_failures" => counts.connect_failures as f64,
            "lost_connections" => counts.lost_connections as f64,
            "moved_connections" => counts.moved_connections as f64,
            "dropped" => counts.dropped as f64,
            "unsent" => counts.unsent as f64,
            "retries" => counts.retries as f64,
            "ephemeral_arrived_percent" => counts.ephemeral_percent()?,
            "sent_per_s" => phase.per_second(|counts| counts.sent),
            "ok_per_s" => phase.per_second(|counts| counts.ok),
            "deliveries_per_s" => phase.per_second(|counts| counts.deliveries + counts.caught_up),
            "joins_per_s" => phase.per_second(|counts| counts.joins),
            "achievements_missing" => outcome.achievements_missing as f64,
            "games_finished" => outcome.games_finished as f64,
            "games_missing" => games_missing(outcome)?,
            "server_cpu_us_per_delivery" => phase.server_cpu_us_per_delivery?,
            "server_rss_bytes_per_connection" => outcome.server.as_ref()?.rss_bytes_per_connection?,
            _ => return None,
        }),
    }
}

/// Games that were to be played and were not finished.
fn games_missing(outcome: &Outcome) -> Option<f64> {
    let rounds = outcome.scenario.game.as_ref()?.rounds;
    let lobbies = Plan::new(&outcome.scenario, 1).lobbies.len() as f64;
    Some(lobbies * f64::from(rounds) - outcome.games_finished as f64)
}

/// The curve's value at a percentile; between two of its points the higher one counts.
fn curve_at(curve: &[(f64, f64)], percentile: f64) -> f64 {
    let at = curve.iter().find(|(at, _)| *at >= percentile - 1e-9);
    at.or(curve.last()).map_or(0.0, |(_, ms)| *ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::PartResult;
    use crate::measure::Measure;
    use crate::outcome::Gathered;
    use crate::scenario::Scenario;

    /// The outcome of two phases of ten thousand deliveries each, of 1 ms but for the `slow` ones of `slow_ms`, in
    /// the second of which the generator once stood still for `still_ms`.
    fn outcome(thresholds: &[&str], slow: u64, slow_ms: u64, still_ms: u64) -> Outcome {
        let text = "name = 'x'\nclients.count = 5\nlobbies.sizes = [{ members = 5 }]\n\
            [[phases]]\nname = 'calm'\nseconds = 100\n[[phases]]\nname = 'still'\nseconds = 100\n";
        let scenario = Scenario::parse(text, &[format!("thresholds={thresholds:?}")]).unwrap();
        let mut measure = Measure::new(vec![0, 100_000_000]);
        for phase in 0..2 {
            for number in 0..10_000 {
                let began = phase * 100_000_000 + number * 10_000;
                let ms = if number < slow { slow_ms } else { 1 };
                measure.time(Latency::Delivery, began, began + ms * 1_000);
                measure.lag_since(50, 10_000);
            }
            if phase == 1 {
                measure.lag_since(still_ms * 1_000, 10_000);
            }
            measure.end_phase();
        }
        let (phases, seconds) = measure.finish();
        let part = PartResult { phases, seconds, over_at: 200_000_000, ..PartResult::default() };
        Outcome::new(Gathered {
            scenario: &scenario,
            run: "x".to_owned(),
            started_at: 0,
            targets: Vec::new(),
            workers: Vec::new(),
            lost: Vec::new(),
            interrupted: false,
            parts: vec![part],
            chaos: Vec::new(),
            looks: Vec::new(),
        })
    }

    #[track_caller]
    fn decided(threshold: &str, slow: u64, slow_ms: u64, still_ms: u64, decision: Decision) -> Verdict {
        let verdict = Verdict::of(&outcome(&[threshold], slow, slow_ms, still_ms));
        assert_eq!(verdict.decision, decision, "{threshold}: {verdict:?}");
        // Never by the lag's 99th percentile.
        assert!(verdict.void.is_empty(), "{verdict:?}");
        verdict
    }

    #[test]
    fn a_time_that_the_generators_own_lag_explains_is_void_at_any_percentile() {
        // Half a second of a hundred is 0.5 %.
        for threshold in
            ["still: delivery.max_ms < 250", "still: delivery.p99_7_ms <= 250", "delivery.max_ms < 250"]
        {
            let verdict = decided(threshold, 50, 500, 500, Decision::Void);
            let tested = &verdict.tested[1];
            assert!(tested.is_void && !tested.passed && tested.text.contains("ms late at this percentile"));
            assert_eq!(verdict.exit_code, 3);
        }
        let max = decided("still: delivery.max_ms < 250", 50, 500, 500, Decision::Void);
        assert!(max.tested[1].text.contains("itself was 500."), "max with max: {:?}", max.tested[1]);
    }

    #[test]
    fn a_time_that_the_generators_own_lag_does_not_explain_fails() {
        // Of another phase; at a percentile at which the generator was in time; within the bound on lag; longer than
        // it was late; and too short.
        for (threshold, slow, slow_ms, still_ms) in [
            ("calm: delivery.max_ms < 250", 50, 500, 500),
            ("still: delivery.p99_ms < 250", 200, 500, 500),
            ("still: delivery.max_ms < 20", 50, 40, 45),
            ("still: delivery.max_ms < 250", 50, 5_000, 500),
            ("still: delivery.max_ms > 5000", 50, 500, 500),
        ] {
            let verdict = decided(threshold, slow, slow_ms, still_ms, Decision::Failed);
            assert!(!verdict.tested[1].is_void, "{verdict:?}");
        }
        decided("still: delivery.max_ms < 900", 50, 500, 500, Decision::Passed);
    }

    #[test]
    fn what_decides_is_what_is_certain() {
        let void = "still: delivery.max_ms < 250";
        let decision = |outcome: &Outcome| Verdict::of(outcome).decision;
        let still = outcome(&[void], 50, 500, 500);
        assert_eq!(decision(&outcome(&[void, "sent_per_s > 1"], 50, 500, 500)), Decision::Failed);
        assert_eq!(decision(&Outcome { unaccepted: 1, ..still.clone() }), Decision::Failed);
        assert_eq!(decision(&Outcome { unaccepted: 1, interrupted: true, ..still.clone() }), Decision::Void);
        // A whole run that is void, too: only what was delivered wrong is certain.
        let mut late = Outcome { unaccepted: 1, ..still };
        late.generator.lost.push("a worker".to_owned());
        late.faults.add("no_reply", 1, String::new);
        assert_eq!(decision(&late), Decision::Void);
        late.faults.add("gap", 1, String::new);
        assert_eq!(decision(&late), Decision::Failed);
    }

    #[test]
    fn between_two_points_of_a_curve_the_higher_one_counts() {
        let curve = [(0.0, 1.0), (50.0, 2.0), (99.0, 9.0), (100.0, 20.0)];
        for (percentile, ms) in
            [(0.0, 1.0), (50.0, 2.0), (60.0, 9.0), (99.0, 9.0), (99.9, 20.0), (100.0, 20.0)]
        {
            assert_eq!(curve_at(&curve, percentile), ms, "{percentile}");
        }
    }
}
