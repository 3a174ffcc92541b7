//! How near a process is to its limits, as one number from 0 to 1 and the name of what is nearest: what autoscalers
//! look at (`mlms_saturation_ratio`, `/scale`). It reads the process's own metrics every two seconds; whoever has
//! something to say about load says it in a metric. It never refuses anything: limits are kept where they belong.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, Opts};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, register};

const PERIOD: Duration = Duration::from_secs(2);

/// Share of a new sample in the smoothed figures: a step is seen by nine tenths after ten seconds.
const FRESH: f64 = 0.37;

/// A loop that comes to each of its tasks this late has no time left.
const LOOP_LAG_LIMIT: Duration = Duration::from_millis(250);

/// Limit of what may wait for slow connections where the system names no limit of memory; else a quarter of that.
const OUTBOX_BYTES_LIMIT: f64 = 512.0 * 1024.0 * 1024.0;

/// `/proc` counts processor time in these, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What may come to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    Connections,
    Cpu,
    LoopLag,
    OutboxBytes,
    JournalBacklog,
}

impl Signal {
    fn label(self) -> &'static str {
        match self {
            Signal::Connections => "connections",
            Signal::Cpu => "cpu",
            Signal::LoopLag => "loop_lag",
            Signal::OutboxBytes => "outbox_bytes",
            Signal::JournalBacklog => "journal_backlog",
        }
    }
}

/// What `/scale` answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    /// Open connections of players, or of brokers on their behalf.
    pub connections: u64,
    pub connections_max: u64,
    /// The largest of all signals, 0 to 1.
    pub saturation: f64,
    /// Which one that is.
    pub signal: Signal,
}

/// The latest reading, and how it is taken. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Saturation {
    metrics: Metrics,
    connections_max: usize,
    outbox_bytes_limit: f64,
    backlog_bytes_limit: f64,
    largest: GaugeVec,
    each: GaugeVec,
    latest: Arc<Mutex<Reading>>,
}

impl Saturation {
    /// `backlog_bytes_max`: bytes of journal that may wait, of each node in the process.
    ///
    /// # Panics
    /// When the metrics have a saturation already.
    pub fn new(metrics: &Metrics, connections_max: usize, backlog_bytes_max: u64) -> Saturation {
        let registry = metrics.registry();
        let gauges =
            |name: &str, help: &str| register(registry, GaugeVec::new(Opts::new(name, help), &["signal"]));
        let limit = Gauge::new("mlms_connections_limit", "Connections at which a listener answers 503.");
        register(registry, limit).set(as_float(connections_max));
        let saturation = Saturation {
            metrics: metrics.clone(),
            connections_max,
            outbox_bytes_limit: memory_limit().map_or(OUTBOX_BYTES_LIMIT, |bytes| bytes / 4.0),
            #[expect(
                clippy::cast_precision_loss,
                reason = "a limit, and not near 2^52 in need of precision"
            )]
            backlog_bytes_limit: backlog_bytes_max.max(1) as f64,
            largest: gauges(
                "mlms_saturation_ratio",
                "How near the process is to its limits, 0 to 1; the label tells which is nearest.",
            ),
            each: gauges("mlms_saturation_signal_ratio", "Each signal against its own limit, 0 to 1."),
            latest: Arc::new(Mutex::new(Reading {
                connections: 0,
                connections_max: u64::try_from(connections_max).unwrap_or(u64::MAX),
                saturation: 0.0,
                signal: Signal::Connections,
            })),
        };
        saturation.largest.with_label_values(&[Signal::Connections.label()]).set(0.0);
        saturation
    }

    pub fn latest(&self) -> Reading {
        *self.lock()
    }

    /// Takes readings until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticker = tokio::time::interval(PERIOD);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| as_float(cores.get()));
        let (mut cpu, mut lag) = (0.0, 0.0);
        let mut before = (Instant::now(), processor_seconds());
        while stop.run_until_cancelled(ticker.tick()).await.is_some() {
            let now = (Instant::now(), processor_seconds());
            let elapsed = now.0.duration_since(before.0).as_secs_f64();
            if elapsed > 0.1 {
                smooth(&mut cpu, (now.1 - before.1) / elapsed / cores);
                before = now;
            }
            let families = self.metrics.families();
            smooth(&mut lag, largest(&families, "mlms_loop_lag_seconds") / LOOP_LAG_LIMIT.as_secs_f64());
            self.take(&families, cpu, lag);
        }
    }

    /// Puts one reading together.
    fn take(&self, families: &[MetricFamily], cpu: f64, lag: f64) {
        let (connections, fullest) = connections(families);
        let signals = [
            (Signal::Connections, fullest / as_float(self.connections_max.max(1))),
            (Signal::Cpu, cpu),
            (Signal::LoopLag, lag),
            (Signal::OutboxBytes, total(families, "mlms_outbox_bytes") / self.outbox_bytes_limit),
            (
                Signal::JournalBacklog,
                largest(families, "mlms_journal_backlog_bytes") / self.backlog_bytes_limit,
            ),
        ]
        .map(|(signal, ratio)| (signal, ratio.clamp(0.0, 1.0)));
        for (signal, ratio) in signals {
            self.each.with_label_values(&[signal.label()]).set(ratio);
        }
        let (signal, saturation) = signals
            .into_iter()
            .fold((Signal::Connections, 0.0), |most, one| if one.1 > most.1 { one } else { most });
        self.largest.with_label_values(&[signal.label()]).set(saturation);
        let mut latest = self.lock();
        if latest.signal != signal {
            // There is one series at a time; that it is not there yet is no mistake.
            let _ = self.largest.remove_label_values(&[latest.signal.label()]);
        }
        *latest = Reading { connections, connections_max: latest.connections_max, saturation, signal };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Reading> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All connections but the operator's, and those of the fullest listener.
fn connections(families: &[MetricFamily]) -> (u64, f64) {
    let mut sum: f64 = 0.0;
    let mut most: f64 = 0.0;
    for family in families.iter().filter(|family| family.name() == "mlms_connections") {
        for metric in family.get_metric() {
            if metric.get_label().iter().all(|label| label.value() != "admin") {
                sum += metric.get_gauge().get_value();
                most = most.max(metric.get_gauge().get_value());
            }
        }
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count, and not negative")]
    (sum.max(0.0) as u64, most)
}

fn values(families: &[MetricFamily], name: &str) -> impl Iterator<Item = f64> {
    let named = families.iter().filter(move |family| family.name() == name);
    named.flat_map(MetricFamily::get_metric).map(|metric| metric.get_gauge().get_value())
}

fn total(families: &[MetricFamily], name: &str) -> f64 {
    values(families, name).sum()
}

fn largest(families: &[MetricFamily], name: &str) -> f64 {
    values(families, name).fold(0.0, f64::max)
}

fn smooth(average: &mut f64, sample: f64) {
    *average += FRESH * (sample - *average);
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// Processor time of this process so far: fields 14 and 15 of `/proc/self/stat`; its second field is a name in
/// parentheses that may hold anything.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// Bytes that the container may use, if it has a limit.
fn memory_limit() -> Option<f64> {
    let read = |path| std::fs::read_to_string(path).ok();
    let text =
        read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"))?;
    // `max`, or a number near 2^63: no limit.
    text.trim().parse::<f64>().ok().filter(|bytes| *bytes < 1e15)
}

#[cfg(test)]
mod tests {
    use prometheus::IntGauge;

    use super::*;

    fn gauge(metrics: &Metrics, part: &str, name: &str, listener: &str) -> IntGauge {
        let opts = Opts::new(name, "For a test.");
        let opts = if listener.is_empty() { opts } else { opts.const_label("listener", listener) };
        register(&metrics.part(&[("node", part)]), IntGauge::with_opts(opts))
    }

    #[test]
    fn the_nearest_limit_names_the_saturation() {
        let metrics = Metrics::new("1.2.3", "lobby-node");
        let saturation = Saturation::new(&metrics, 200, 1_000_000);
        gauge(&metrics, "node-1", "mlms_connections", "node").set(90);
        gauge(&metrics, "node-2", "mlms_connections", "node").set(50);
        gauge(&metrics, "", "mlms_connections", "admin").set(9_999);
        let backlog = gauge(&metrics, "node-1", "mlms_journal_backlog_bytes", "");
        saturation.take(&metrics.families(), 0.25, 0.1);
        let reading = saturation.latest();
        assert_eq!((reading.connections, reading.connections_max), (140, 200));
        assert_eq!((reading.signal, reading.saturation), (Signal::Connections, 0.45));

        backlog.set(2_000_000);
        saturation.take(&metrics.families(), 0.25, 0.1);
        assert_eq!(
            (saturation.latest().signal, saturation.latest().saturation),
            (Signal::JournalBacklog, 1.0)
        );
        let page = metrics.render().unwrap();
        assert!(page.contains("mlms_saturation_ratio{signal=\"journal_backlog\"} 1\n"), "{page}");
        assert_eq!(page.matches("\nmlms_saturation_ratio{").count(), 1, "one series at a time: {page}");
        assert!(page.contains("mlms_saturation_signal_ratio{signal=\"cpu\"} 0.25"), "{page}");
        assert!(page.contains("mlms_connections_limit 200"), "{page}");
        let json = serde_json::to_string(&saturation.latest()).unwrap();
        assert_eq!(
            json,
            r#"{"connections":140,"connections_max":200,"saturation":1.0,"signal":"journal_backlog"}"#
        );
    }

    #[test]
    fn processor_time_is_read_and_grows() {
        let before = processor_seconds();
        let mut sum = 0_u64;
        while processor_seconds() - before < 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(processor_seconds() > before);
    }
}
