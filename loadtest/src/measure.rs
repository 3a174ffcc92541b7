//! What a part of a run counts and times: histograms and counters a phase, numbers a second for the plots. Parts are
//! merged, whether they ran in threads or on other machines.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::plan::Micros;
use crate::scenario::Latency;

/// Longest time that is told apart: ten minutes.
const MICROS_MAX: u64 = 600_000_000;

/// Reasons that are told apart in a phase.
const REASONS_MAX: usize = 100;

/// Times in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Times {
        Times(Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are sound"))
    }
}

impl Times {
    pub(crate) fn add(&mut self, micros: Micros) {
        self.0.saturating_record(micros.max(1));
    }

    pub(crate) fn merge(&mut self, other: &Times) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In milliseconds; `None`: there is nothing.
    pub(crate) fn percentile(&self, percentile: f64) -> Option<f64> {
        let micros = match percentile {
            most if most >= 100.0 => self.0.max(),
            least if least <= 0.0 => self.0.min(),
            _ => self.0.value_at_percentile(percentile),
        };
        (self.count() > 0).then_some(micros as f64 / 1e3)
    }

    pub(crate) fn mean(&self) -> f64 {
        self.0.mean() / 1e3
    }

    fn pairs(&self) -> Vec<(u64, u64)> {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }

    fn clear(&mut self) {
        self.0.reset();
    }
}

/// Pairs of value and count.
impl Serialize for Times {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pairs().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Times, D::Error> {
        let mut times = Times::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            times.0.saturating_record_n(value.max(1), count);
        }
        Ok(times)
    }
}

/// Plain counters, the same for a phase and for a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    pub(crate) deliveries: u64,
    /// Deliveries among the missed events of a resume.
    pub(crate) caught_up: u64,
    pub(crate) joins: u64,
    pub(crate) errors: u64,
    pub(crate) retries: u64,
    pub(crate) connect_failures: u64,
    /// Ended by the server or the network, where no plan wanted it.
    pub(crate) lost_connections: u64,
    pub(crate) dropped: u64,
    /// Due while their senders had lost their connections, and not sent later either.
    pub(crate) unsent: u64,
    /// Deliveries of ephemeral messages that would have been, had none been dropped: may be they are, and how many is told.
    pub(crate) ephemeral_owed: u64,
    pub(crate) ephemeral_arrived: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Counts {
    /// The share of ephemeral messages that arrived, in per cent; `None`: there were none.
    pub(crate) fn ephemeral_percent(&self) -> Option<f64> {
        let owed = self.ephemeral_owed as f64;
        (owed > 0.0).then(|| (100.0 * self.ephemeral_arrived as f64 / owed).min(100.0))
    }

    fn add(&mut self, other: &Counts) {
        let Counts {
            sent,
            ok,
            deliveries,
            caught_up,
            joins,
            errors,
            retries,
            connect_failures,
            lost_connections,
            dropped,
            unsent,
            ephemeral_owed,
            ephemeral_arrived,
            bytes_in,
            bytes_out,
        } = other;
        self.sent += sent;
        self.ok += ok;
        self.deliveries += deliveries;
        self.caught_up += caught_up;
        self.joins += joins;
        self.errors += errors;
        self.retries += retries;
        self.connect_failures += connect_failures;
        self.lost_connections += lost_connections;
        self.dropped += dropped;
        self.unsent += unsent;
        self.ephemeral_owed += ephemeral_owed;
        self.ephemeral_arrived += ephemeral_arrived;
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PhaseMeasure {
    pub(crate) counts: Counts,
    pub(crate) times: BTreeMap<Latency, Times>,
    /// Errors by code, refused handshakes and closes by number.
    pub(crate) reasons: BTreeMap<String, u64>,
}

impl PhaseMeasure {
    pub(crate) fn merge(&mut self, other: &PhaseMeasure) {
        self.counts.add(&other.counts);
        for (latency, times) in &other.times {
            self.times.entry(*latency).or_default().merge(times);
        }
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
    }
}

/// One second of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) counts: Counts,
    /// Sessions in a lobby at its end.
    pub(crate) joined: u64,
    pub(crate) delivery: Times1,
    pub(crate) lag_max: Micros,
}

/// Times of a second: pairs of value and count, to two digits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Times1(Vec<(u64, u64)>);

impl Times1 {
    fn merge(&mut self, other: &Times1) {
        let mut sum: BTreeMap<u64, u64> = self.0.iter().copied().collect();
        for (value, count) in &other.0 {
            *sum.entry(*value).or_default() += count;
        }
        self.0 = sum.into_iter().collect();
    }

    /// In milliseconds.
    pub(crate) fn percentile(&self, percentile: f64) -> Option<f64> {
        let total: u64 = self.0.iter().map(|(_, count)| count).sum();
        let wanted = (total as f64 * percentile / 100.0).ceil().max(1.0) as u64;
        let mut sum = 0;
        let found = self.0.iter().find(|(_, count)| {
            sum += count;
            sum >= wanted
        });
        found.map(|(value, _)| *value as f64 / 1e3)
    }
}

/// Everything a part measures while it runs.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) phases: Vec<PhaseMeasure>,
    pub(crate) seconds: Vec<Second>,
    /// Of the phase under way; they are put into the maps at its end.
    times: [Times; Latency::ALL.len()],
    second_times: Histogram<u64>,
    before: Counts,
    pub(crate) counts: Counts,
    reasons: BTreeMap<String, u64>,
    second_before: Counts,
    pub(crate) lag_max: Micros,
}

impl Measure {
    pub(crate) fn new() -> Measure {
        Measure {
            phases: Vec::new(),
            seconds: Vec::new(),
            times: Default::default(),
            second_times: Histogram::new_with_bounds(1, MICROS_MAX, 2).expect("the bounds are sound"),
            before: Counts::default(),
            counts: Counts::default(),
            reasons: BTreeMap::new(),
            second_before: Counts::default(),
            lag_max: 0,
        }
    }

    pub(crate) fn time(&mut self, latency: Latency, micros: Micros) {
        self.times[latency as usize].add(micros);
        if latency == Latency::Delivery {
            self.second_times.saturating_record(micros.max(1));
        }
    }

    pub(crate) fn reason(&mut self, reason: String) {
        // The server's words are not ours to bound.
        let known = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason);
        *self.reasons.entry(if known { reason } else { "others".to_owned() }).or_default() += 1;
    }

    pub(crate) fn lag(&mut self, micros: Micros) {
        self.lag_max = self.lag_max.max(micros);
        self.time(Latency::Lag, micros);
    }

    /// A look at the clock that was due `micros` ago, and those that were due every `interval` meanwhile: a generator
    /// that stood still for a second was late a hundred times, not once.
    pub(crate) fn lag_since(&mut self, micros: Micros, interval: Micros) {
        let mut late = micros.min(MICROS_MAX);
        self.lag(late);
        while late > interval {
            late -= interval;
            self.lag(late);
        }
    }

    /// Gives the second's times of deliveries: median and 99th percentile.
    pub(crate) fn end_second(&mut self, joined: u64) -> (Micros, Micros) {
        let seen = (self.second_times.value_at_percentile(50.0), self.second_times.value_at_percentile(99.0));
        let times = self.second_times.iter_recorded();
        let delivery = Times1(times.map(|step| (step.value_iterated_to(), step.count_at_value())).collect());
        self.second_times.reset();
        let counts = difference(&self.counts, &self.second_before);
        self.second_before = self.counts;
        let lag_max = std::mem::take(&mut self.lag_max);
        self.seconds.push(Second { counts, joined, delivery, lag_max });
        seen
    }

    pub(crate) fn end_phase(&mut self) {
        let mut phase = PhaseMeasure {
            counts: difference(&self.counts, &self.before),
            times: BTreeMap::new(),
            reasons: std::mem::take(&mut self.reasons),
        };
        self.before = self.counts;
        for (latency, times) in Latency::ALL.into_iter().zip(&mut self.times) {
            if times.count() > 0 {
                phase.times.insert(latency, times.clone());
                times.clear();
            }
        }
        self.phases.push(phase);
    }
}

fn difference(now: &Counts, before: &Counts) -> Counts {
    Counts {
        sent: now.sent - before.sent,
        ok: now.ok - before.ok,
        deliveries: now.deliveries - before.deliveries,
        caught_up: now.caught_up - before.caught_up,
        joins: now.joins - before.joins,
        errors: now.errors - before.errors,
        retries: now.retries - before.retries,
        connect_failures: now.connect_failures - before.connect_failures,
        lost_connections: now.lost_connections - before.lost_connections,
        dropped: now.dropped - before.dropped,
        unsent: now.unsent - before.unsent,
        ephemeral_owed: now.ephemeral_owed - before.ephemeral_owed,
        ephemeral_arrived: now.ephemeral_arrived - before.ephemeral_arrived,
        bytes_in: now.bytes_in - before.bytes_in,
        bytes_out: now.bytes_out - before.bytes_out,
    }
}

/// Adds the seconds of another part.
pub(crate) fn merge_seconds(into: &mut Vec<Second>, other: &[Second]) {
    if into.len() < other.len() {
        into.resize(other.len(), Second::default());
    }
    for (second, other) in into.iter_mut().zip(other) {
        second.counts.add(&other.counts);
        second.joined += other.joined;
        second.delivery.merge(&other.delivery);
        second.lag_max = second.lag_max.max(other.lag_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_to_another_process() {
        let mut times = Times::default();
        (1..=1_000).for_each(|ms| times.add(ms * 1_000));
        let again: Times = serde_json::from_str(&serde_json::to_string(&times).unwrap()).unwrap();
        for percentile in [50.0, 99.0, 99.9, 100.0] {
            let (one, other) = (times.percentile(percentile).unwrap(), again.percentile(percentile).unwrap());
            assert!((one - other).abs() <= one * 0.002, "{percentile}: {one} {other}");
        }
        assert_eq!(again.count(), 1_000);
    }

    #[test]
    fn a_generator_that_stood_still_was_late_all_the_time() {
        let mut measure = Measure::new();
        (0..99).for_each(|_| measure.lag_since(50, 10_000));
        measure.lag_since(1_000_000, 10_000);
        measure.end_phase();
        let lag = &measure.phases[0].times[&Latency::Lag];
        let p90 = lag.percentile(90.0).unwrap();
        assert!(lag.count() == 199 && (795.0..815.0).contains(&p90), "{} {p90}", lag.count());
    }

    #[test]
    fn phases_and_seconds_hold_what_happened_in_them() {
        let mut measure = Measure::new();
        measure.counts.sent = 3;
        measure.time(Latency::Delivery, 2_000);
        measure.end_second(5);
        measure.counts.sent = 4;
        measure.end_second(6);
        measure.end_phase();
        measure.counts.sent = 10;
        measure.end_phase();
        assert_eq!(measure.phases.iter().map(|phase| phase.counts.sent).collect::<Vec<_>>(), [4, 6]);
        assert!(measure.phases[1].times.is_empty());
        let mut merged = measure.seconds.clone();
        merge_seconds(&mut merged, &measure.seconds);
        assert_eq!((merged[0].counts.sent, merged[1].counts.sent, merged[1].joined), (6, 2, 12));
        let p50 = merged[0].delivery.percentile(50.0).unwrap();
        assert!((1.9..2.1).contains(&p50), "{p50}");
    }
}
