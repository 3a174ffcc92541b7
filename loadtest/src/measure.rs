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
    /// Ended by the server, which had asked the client to come again elsewhere.
    pub(crate) moved_connections: u64,
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

    /// What was counted beyond an earlier state of the same counters.
    pub(crate) fn since(&self, before: &Counts) -> Counts {
        Counts {
            sent: self.sent - before.sent,
            ok: self.ok - before.ok,
            deliveries: self.deliveries - before.deliveries,
            caught_up: self.caught_up - before.caught_up,
            joins: self.joins - before.joins,
            errors: self.errors - before.errors,
            retries: self.retries - before.retries,
            connect_failures: self.connect_failures - before.connect_failures,
            lost_connections: self.lost_connections - before.lost_connections,
            moved_connections: self.moved_connections - before.moved_connections,
            dropped: self.dropped - before.dropped,
            unsent: self.unsent - before.unsent,
            ephemeral_owed: self.ephemeral_owed - before.ephemeral_owed,
            ephemeral_arrived: self.ephemeral_arrived - before.ephemeral_arrived,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
        }
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
            moved_connections,
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
        self.moved_connections += moved_connections;
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
    /// Of them, what came behind the run's planned end, while all settled: no rate counts it.
    #[serde(default)]
    pub(crate) late: Counts,
    pub(crate) times: BTreeMap<Latency, Times>,
    /// Errors by code, refused handshakes and closes by number.
    pub(crate) reasons: BTreeMap<String, u64>,
}

impl PhaseMeasure {
    pub(crate) fn merge(&mut self, other: &PhaseMeasure) {
        self.counts.add(&other.counts);
        self.late.add(&other.late);
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
    /// When each phase begins.
    begins: Vec<Micros>,
    /// Those that have ended, without their times.
    phases: Vec<PhaseMeasure>,
    pub(crate) seconds: Vec<Second>,
    /// Of the phases that have begun: what begins in one may end in any later one.
    times: Vec<[Times; Latency::ALL.len()]>,
    /// The phase in which the run was over, and the counts then.
    over: Option<(usize, Counts)>,
    second_times: Histogram<u64>,
    before: Counts,
    pub(crate) counts: Counts,
    reasons: BTreeMap<String, u64>,
    second_before: Counts,
    pub(crate) lag_max: Micros,
}

impl Measure {
    pub(crate) fn new(begins: Vec<Micros>) -> Measure {
        Measure {
            begins,
            phases: Vec::new(),
            seconds: Vec::new(),
            times: vec![Default::default()],
            over: None,
            second_times: Histogram::new_with_bounds(1, MICROS_MAX, 2).expect("the bounds are sound"),
            before: Counts::default(),
            counts: Counts::default(),
            reasons: BTreeMap::new(),
            second_before: Counts::default(),
            lag_max: 0,
        }
    }

    /// Something that began then is through. It counts in the phase in which it began: one that stalls shows in the
    /// phase that it stalled in, not in the one after, whose bound may be another.
    pub(crate) fn time(&mut self, latency: Latency, began: Micros, now: Micros) {
        let mut phase = self.phases.len();
        while phase > 0 && self.begins.get(phase).is_some_and(|begin| *begin > began) {
            phase -= 1;
        }
        let micros = now.saturating_sub(began);
        self.times[phase][latency as usize].add(micros);
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
        self.times[self.phases.len()][Latency::Lag as usize].add(micros);
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
        let counts = self.counts.since(&self.second_before);
        self.second_before = self.counts;
        let lag_max = std::mem::take(&mut self.lag_max);
        self.seconds.push(Second { counts, joined, delivery, lag_max });
        seen
    }

    /// The run is over: what comes now comes late.
    pub(crate) fn over(&mut self) {
        self.over = Some((self.phases.len(), self.counts));
    }

    pub(crate) fn end_phase(&mut self) {
        let late = self.over.map(|(phase, then)| match phase == self.phases.len() {
            true => self.counts.since(&then),
            false => self.counts.since(&self.before),
        });
        self.phases.push(PhaseMeasure {
            counts: self.counts.since(&self.before),
            late: late.unwrap_or_default(),
            times: BTreeMap::new(),
            reasons: std::mem::take(&mut self.reasons),
        });
        self.before = self.counts;
        self.times.push(Default::default());
    }

    /// All phases, of which the last has ended, and the seconds.
    pub(crate) fn finish(mut self) -> (Vec<PhaseMeasure>, Vec<Second>) {
        for (phase, all) in self.phases.iter_mut().zip(self.times) {
            let measured = Latency::ALL.into_iter().zip(all).filter(|(_, times)| times.count() > 0);
            phase.times.extend(measured);
        }
        (self.phases, self.seconds)
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
        let mut measure = Measure::new(vec![0]);
        (0..99).for_each(|_| measure.lag_since(50, 10_000));
        measure.lag_since(1_000_000, 10_000);
        measure.end_phase();
        let (phases, _) = measure.finish();
        let lag = &phases[0].times[&Latency::Lag];
        let p90 = lag.percentile(90.0).unwrap();
        assert!(lag.count() == 199 && (795.0..815.0).contains(&p90), "{} {p90}", lag.count());
    }

    #[test]
    fn phases_and_seconds_hold_what_happened_in_them() {
        let mut measure = Measure::new(vec![0, 1_000_000]);
        measure.counts.sent = 3;
        measure.time(Latency::Delivery, 1_000, 3_000);
        measure.end_second(5);
        measure.counts.sent = 4;
        measure.end_second(6);
        measure.end_phase();
        measure.counts.sent = 10;
        measure.end_phase();
        let (phases, seconds) = measure.finish();
        assert_eq!(phases.iter().map(|phase| phase.counts.sent).collect::<Vec<_>>(), [4, 6]);
        assert!(phases[1].times.is_empty());
        let mut merged = seconds.clone();
        merge_seconds(&mut merged, &seconds);
        assert_eq!((merged[0].counts.sent, merged[1].counts.sent, merged[1].joined), (6, 2, 12));
        let p50 = merged[0].delivery.percentile(50.0).unwrap();
        assert!((1.9..2.1).contains(&p50), "{p50}");
    }

    #[test]
    fn a_time_counts_in_the_phase_in_which_it_began_and_no_rate_counts_what_came_late() {
        let mut measure = Measure::new(vec![0, 10_000_000, 20_000_000]);
        measure.end_phase();
        measure.end_phase();
        // Twelve seconds away, from the first second on: not for the phase that it comes back in.
        measure.time(Latency::Outage, 1_000_000, 13_000_000);
        measure.time(Latency::Outage, 20_000_000, 20_001_000);
        measure.counts.deliveries = 70;
        measure.over();
        measure.counts.deliveries = 100;
        measure.end_phase();
        let (phases, _) = measure.finish();
        let longest = |phase: usize| phases[phase].times.get(&Latency::Outage)?.percentile(100.0);
        assert!(longest(0).is_some_and(|ms| (11_900.0..12_100.0).contains(&ms)), "{:?}", longest(0));
        assert_eq!(longest(1), None);
        assert!(longest(2).is_some_and(|ms| ms < 1.1));
        assert_eq!((phases[2].counts.deliveries, phases[2].late.deliveries), (100, 30));
        assert_eq!(phases[1].late, Counts::default());
    }
}
