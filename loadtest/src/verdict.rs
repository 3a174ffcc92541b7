//! Whether a run passed: the rules, the thresholds, and whether the generator was fit to judge. One exit code each.

use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, Phase};
use crate::plan::Plan;
use crate::scenario::{Check, Threshold};

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
    pub(crate) text: String,
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
            tested.push(Tested { name, value: None, passed: false, text: error });
        }
        let void = void(outcome);
        // What was delivered wrong is wrong however slowly it was looked at; what was missed may only not have been seen.
        let decision = if outcome.faults.delivered_wrong() > 0 {
            Decision::Failed
        } else if !void.is_empty() {
            Decision::Void
        } else if tested.iter().any(|tested| !tested.passed) {
            Decision::Failed
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
    bounds.into_iter().filter(|(_, count, _)| *count > 0).map(|(name, count, what)| Tested {
        name: name.to_owned(),
        value: Some(count as f64),
        passed: false,
        text: format!("{count} {what}"),
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
    Tested { name: "rules".to_owned(), value: Some(faults.total() as f64), passed: faults.total() == 0, text }
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
    let text = match value {
        Some(value) => format!("measured {}", rounded(value)),
        None if outcome.interrupted => "not judged, as the run was interrupted".to_owned(),
        None => "there was nothing to measure".to_owned(),
    };
    Tested { name: threshold.to_string(), value, passed, text }
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
