//! One line of a scenario's thresholds: `[phase:] measure operator number`, for example `delivery.p99_ms < 50` or
//! `storm: errors <= 0`. What is measured is looked up by `verdict.rs`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What has a distribution of times.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Latency {
    /// From the intended start of a connection to `welcome`.
    Connect,
    /// From the intended start of a connection (or a `join`) to the lobby's position.
    Join,
    /// From the intended time of a send to its reply.
    Ok,
    /// From the intended time of a send to its arrival at a member.
    Delivery,
    /// From the loss of a connection to being in the lobby again.
    Outage,
    /// The generator's own: from when it wanted to act to when it did.
    Lag,
}

impl Latency {
    pub(crate) const ALL: [Latency; 6] =
        [Latency::Connect, Latency::Join, Latency::Ok, Latency::Delivery, Latency::Outage, Latency::Lag];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Latency::Connect => "connect",
            Latency::Join => "join",
            Latency::Ok => "ok",
            Latency::Delivery => "delivery",
            Latency::Outage => "outage",
            Latency::Lag => "lag",
        }
    }
}

/// What a threshold looks at.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Check {
    /// A percentile, 100 for the maximum.
    Percentile(Latency, f64),
    Count(&'static str),
}

/// Counts and rates, as thresholds name them.
const COUNTS: [&str; 17] = [
    "errors",
    "connect_failures",
    "lost_connections",
    "moved_connections",
    "dropped",
    "unsent",
    "retries",
    "ephemeral_arrived_percent",
    "sent_per_s",
    "ok_per_s",
    "deliveries_per_s",
    "joins_per_s",
    "achievements_missing",
    "games_finished",
    "games_missing",
    "server_cpu_us_per_delivery",
    "server_rss_bytes_per_connection",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operator {
    Below,
    AtMost,
    Above,
    AtLeast,
    Equal,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Threshold {
    pub(crate) phase: Option<String>,
    pub(crate) check: Check,
    operator: Operator,
    number: f64,
    text: String,
}

impl Threshold {
    /// The percentile that it asks for.
    pub(crate) fn percentile(&self) -> Option<f64> {
        match self.check {
            Check::Percentile(_, percentile) => Some(percentile),
            Check::Count(_) => None,
        }
    }

    pub(crate) fn holds(&self, value: f64) -> bool {
        match self.operator {
            Operator::Below => value < self.number,
            Operator::AtMost => value <= self.number,
            Operator::Above => value > self.number,
            Operator::AtLeast => value >= self.number,
            Operator::Equal => value == self.number,
        }
    }
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Threshold, String> {
        let wrong = |why: &str| format!("threshold {text:?}: {why}");
        let (phase, rest) = match text.split_once(':') {
            Some((phase, rest)) => (Some(phase.trim().to_owned()), rest),
            None => (None, text),
        };
        let parts: Vec<&str> = rest.split_whitespace().collect();
        let [measure, operator, number] = parts[..] else {
            return Err(wrong("write [phase:] measure operator number, with spaces"));
        };
        let operator = match operator {
            "<" => Operator::Below,
            "<=" => Operator::AtMost,
            ">" => Operator::Above,
            ">=" => Operator::AtLeast,
            "==" | "=" => Operator::Equal,
            _ => return Err(wrong("the operators are < <= > >= ==")),
        };
        // Not `nan` or `inf`, which f64 reads too: nothing is at most the one, everything below the other.
        let number = number.parse().ok().filter(|number: &f64| number.is_finite());
        let number = number.ok_or_else(|| wrong("that is no number"))?;
        let check = match measure.split_once('.') {
            Some((what, percentile)) => {
                let latency = Latency::ALL.into_iter().find(|latency| latency.name() == what);
                let percentile = match percentile.strip_suffix("_ms") {
                    Some("max") => Some(100.0),
                    Some(p) => p.strip_prefix('p').and_then(|p| p.replace('_', ".").parse::<f64>().ok()),
                    None => None,
                };
                let percentile = percentile.filter(|percentile| (0.0..=100.0).contains(percentile));
                let (Some(latency), Some(percentile)) = (latency, percentile) else {
                    return Err(wrong(
                        "a time is connect, join, ok, delivery, outage or lag, then .p50_ms, .p99_9_ms, .max_ms …",
                    ));
                };
                Check::Percentile(latency, percentile)
            }
            None => match COUNTS.iter().find(|count| **count == measure) {
                Some(count) => Check::Count(count),
                None => return Err(wrong(&format!("the counts are {}", COUNTS.join(", ")))),
            },
        };
        Ok(Threshold {
            phase,
            check,
            operator,
            number,
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Threshold {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Threshold, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_compared() {
        let threshold: Threshold = "storm:  delivery.p99_9_ms <= 250".parse().unwrap();
        assert_eq!(threshold.phase.as_deref(), Some("storm"));
        assert_eq!(threshold.check, Check::Percentile(Latency::Delivery, 99.9));
        assert!(threshold.holds(250.0) && !threshold.holds(250.1));
        assert_eq!(threshold.to_string(), "storm: delivery.p99_9_ms <= 250");
        let threshold: Threshold = "deliveries_per_s > 10".parse().unwrap();
        assert!(threshold.check == Check::Count("deliveries_per_s") && !threshold.holds(10.0));
    }

    #[test]
    fn mistakes_are_refused() {
        for text in [
            "",
            "errors",
            "errors 0",
            "errors ! 0",
            "error <= 0",
            "errors <= nan",
            "errors < inf",
            "errors > -infinity",
            "errors < 1e999",
            "delivery.p99 < 1",
            "delivery.p101_ms < 1",
            "delivery.pnan_ms < 1",
        ] {
            assert!(text.parse::<Threshold>().is_err(), "{text}");
        }
    }
}
