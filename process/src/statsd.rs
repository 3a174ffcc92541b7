//! All metrics of the process as statsd takes them, over UDP, every few seconds: counters as what was added since the
//! last report, gauges as they are, histograms as the count and the sum that were added. Nobody waits for it.

use std::collections::HashMap;
use std::fmt::Write;

use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{IntCounter, Registry};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use crate::config::{StatsdSettings, StatsdTags};
use crate::metrics::{Metrics, register};

/// Bytes of a datagram, below the usual MTU.
const DATAGRAM_BYTES: usize = 1_432;

/// Reports until `stop`, and once more then. Does nothing without an address.
pub async fn run(settings: StatsdSettings, metrics: Metrics, stop: CancellationToken) {
    let Some(address) = settings.address.clone() else { return };
    let mut report = Report::new(&settings);
    let sender = Sender::new(address, metrics.registry());
    let mut ticker = tokio::time::interval(settings.period);
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut going = true;
    let mut failing = false;
    while going {
        going = stop.run_until_cancelled(ticker.tick()).await.is_some();
        let lines = report.lines(&metrics.all());
        match sender.send(&lines).await {
            Ok(()) => failing = false,
            Err(error) => {
                sender.failures.inc();
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(address = sender.address, %error, "metrics cannot be sent to statsd");
                }
            }
        }
    }
}

struct Sender {
    address: String,
    failures: IntCounter,
}

impl Sender {
    fn new(address: String, registry: &Registry) -> Sender {
        let failures =
            IntCounter::new("mlms_statsd_failures_total", "Reports that could not be sent to statsd.");
        Sender { address, failures: register(registry, failures) }
    }

    /// Looks the name up each time: a server's address may change under it.
    async fn send(&self, lines: &[String]) -> std::io::Result<()> {
        let mut found = tokio::net::lookup_host(&self.address).await?;
        let address = found.next().ok_or_else(|| std::io::Error::other("the name has no address"))?;
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
        socket.connect(address).await?;
        let mut datagram = String::with_capacity(DATAGRAM_BYTES);
        for line in lines {
            if !datagram.is_empty() && datagram.len() + 1 + line.len() > DATAGRAM_BYTES {
                socket.send(datagram.as_bytes()).await?;
                datagram.clear();
            }
            if !datagram.is_empty() {
                datagram.push('\n');
            }
            datagram.push_str(line);
        }
        if !datagram.is_empty() {
            socket.send(datagram.as_bytes()).await?;
        }
        Ok(())
    }
}

/// What was reported last, to tell what was added since.
struct Report {
    prefix: String,
    tags: StatsdTags,
    last: HashMap<String, f64>,
}

impl Report {
    fn new(settings: &StatsdSettings) -> Report {
        Report { prefix: settings.prefix.clone(), tags: settings.tags, last: HashMap::new() }
    }

    fn lines(&mut self, families: &[MetricFamily]) -> Vec<String> {
        let mut lines = Vec::new();
        for family in families {
            let name = family.name();
            for metric in family.get_metric() {
                let labels: Vec<(&str, &str)> =
                    metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
                match family.get_field_type() {
                    MetricType::COUNTER => {
                        self.added(&mut lines, name, &labels, metric.get_counter().get_value());
                    }
                    MetricType::GAUGE => {
                        let value = metric.get_gauge().get_value();
                        if value < 0.0 {
                            // A sign would mean a change: from nothing it is the value.
                            lines.push(self.line(name, &labels, "0", "g"));
                        }
                        lines.push(self.line(name, &labels, &number(value), "g"));
                    }
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
                        let count = histogram.get_sample_count() as f64;
                        self.added(&mut lines, &format!("{name}_count"), &labels, count);
                        self.added(&mut lines, &format!("{name}_sum"), &labels, histogram.get_sample_sum());
                    }
                    _ => {}
                }
            }
        }
        lines
    }

    /// A counter's line, where something was added.
    fn added(&mut self, lines: &mut Vec<String>, name: &str, labels: &[(&str, &str)], value: f64) {
        let key = self.line(name, labels, "", "c");
        let last = self.last.insert(key, value).unwrap_or(0.0);
        // One that was set back has begun anew.
        let added = if value >= last { value - last } else { value };
        if added > 0.0 {
            lines.push(self.line(name, labels, &number(added), "c"));
        }
    }

    fn line(&self, name: &str, labels: &[(&str, &str)], value: &str, kind: &str) -> String {
        let mut line = format!("{}{name}", self.prefix);
        if self.tags == StatsdTags::Names {
            for (_, value) in labels {
                line.push('.');
                line.push_str(&clean(value));
            }
        }
        write!(line, ":{value}|{kind}").expect("a String takes every write");
        if self.tags == StatsdTags::Dogstatsd && !labels.is_empty() {
            line.push_str("|#");
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}:{}", clean(value))).collect();
            line.push_str(&labels.join(","));
        }
        line
    }
}

/// A label's value without what means something to statsd.
fn clean(value: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/') { c } else { '_' };
    value.chars().map(fit).collect()
}

fn number(value: f64) -> String {
    // The shortest that reads back, without an exponent.
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts};

    use super::*;

    fn settings(tags: StatsdTags) -> StatsdSettings {
        StatsdSettings { address: None, prefix: "game.".to_owned(), period: Duration::from_secs(1), tags }
    }

    #[test]
    fn counters_are_differences_gauges_values_and_histograms_two_counters() {
        let metrics = Metrics::new("1", "broker");
        let part = metrics.part(&[("node", "n.1")]);
        let counter = IntCounterVec::new(Opts::new("mlms_refusals_total", "For a test."), &["code"]);
        let counter = register(&part, counter);
        let gauge = register(&part, IntGauge::new("mlms_sessions", "For a test."));
        let seconds =
            register(&part, Histogram::with_opts(HistogramOpts::new("mlms_append_seconds", "For a test.")));
        let mut report = Report::new(&settings(StatsdTags::Dogstatsd));
        let mut next = || -> Vec<String> {
            let lines = report.lines(&metrics.families());
            lines.into_iter().filter(|line| !line.contains("build_info")).collect()
        };
        counter.with_label_values(&["muted"]).inc_by(3);
        gauge.set(7);
        seconds.observe(0.5);
        assert_eq!(
            next(),
            [
                "game.mlms_append_seconds_count:1|c|#node:n_1",
                "game.mlms_append_seconds_sum:0.5|c|#node:n_1",
                "game.mlms_refusals_total:3|c|#code:muted,node:n_1",
                "game.mlms_sessions:7|g|#node:n_1",
            ]
        );
        counter.with_label_values(&["muted"]).inc();
        gauge.set(-2);
        assert_eq!(
            next(),
            [
                "game.mlms_refusals_total:1|c|#code:muted,node:n_1",
                "game.mlms_sessions:0|g|#node:n_1",
                "game.mlms_sessions:-2|g|#node:n_1",
            ]
        );
        let mut report = Report::new(&settings(StatsdTags::Names));
        assert!(
            report.lines(&metrics.families()).contains(&"game.mlms_refusals_total.muted.n_1:4|c".to_owned())
        );
    }

    #[tokio::test]
    async fn reports_come_over_udp_in_datagrams_that_fit() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let metrics = Metrics::new("1", "broker");
        for number in 0..100 {
            let gauge = IntGauge::new(format!("mlms_gauge_{number}"), "For a test.");
            register(metrics.registry(), gauge).set(number);
        }
        let stop = CancellationToken::new();
        let address = Some(server.local_addr().unwrap().to_string());
        let settings = StatsdSettings { address, ..settings(StatsdTags::Dogstatsd) };
        let task = tokio::spawn(run(settings, metrics, stop.clone()));
        let mut seen = std::collections::HashSet::new();
        let mut datagram = [0; 8_192];
        while (0..100).any(|number| !seen.contains(&format!("game.mlms_gauge_{number}:{number}|g"))) {
            let bytes = server.recv(&mut datagram).await.unwrap();
            assert!(bytes <= DATAGRAM_BYTES);
            seen.extend(std::str::from_utf8(&datagram[..bytes]).unwrap().lines().map(str::to_owned));
        }
        stop.cancel();
        task.await.unwrap();
        assert!(
            seen.iter().any(|line| line.starts_with("game.process_resident_memory_bytes:")),
            "the system's too"
        );
    }
}
