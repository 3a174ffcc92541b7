//! Spans of sampled requests and messages, and their way to a collector. A [`Tracer`] that is off is one empty option:
//! whoever is not sampled carries no context, and every later look is a branch on that. Nothing here ever waits; what
//! the queue to the exporter does not take is dropped and counted.

mod export;
mod protobuf;
mod rate;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mlms_protocol::trace::TraceParent;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::sync::mpsc;

use crate::config::TraceSettings;
use crate::metrics::register;
pub use export::Exporter;
use rate::Rate;

/// Spans that may wait for the exporter.
const QUEUE_MAX: usize = 8_192;

/// Decides what is traced, and takes its spans. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    queue: mpsc::Sender<Finished>,
    /// The bits of an `f64`.
    sample_ratio: AtomicU64,
    rate: Rate,
    exported: IntCounter,
    dropped: IntCounterVec,
}

/// What a span is to the one around it, as OpenTelemetry numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// A span that has ended.
#[derive(Debug, Clone)]
struct Finished {
    name: &'static str,
    kind: Kind,
    context: TraceParent,
    /// 0: none.
    parent: u64,
    /// Nanoseconds since 1970.
    start: u64,
    end: u64,
    attributes: Vec<(&'static str, Value)>,
    failed: Option<String>,
}

/// Something that is being traced; it ends when it is dropped.
pub struct Span {
    tracer: Tracer,
    finished: Option<Finished>,
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tracer(on)" } else { "Tracer(off)" })
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({})", self.context())
    }
}

impl Tracer {
    /// The tracer of a process and what sends its spans; both do nothing without a collector's URL.
    ///
    /// # Errors
    /// The collector's URL or its headers cannot be used.
    pub fn new(
        settings: &TraceSettings,
        resource: &[(&str, &str)],
        registry: &Registry,
    ) -> Result<(Tracer, Exporter), String> {
        let (queue, spans) = mpsc::channel(QUEUE_MAX);
        let Some(exporter) = Exporter::new(settings, resource, spans)? else {
            return Ok((Tracer(None), Exporter::idle()));
        };
        let exported = IntCounter::new("mlms_spans_exported_total", "Spans that the collector took.");
        let dropped =
            Opts::new("mlms_spans_dropped_total", "Spans that did not get to the collector, by reason.");
        let inner = Inner {
            queue,
            sample_ratio: AtomicU64::new(settings.sample_ratio.to_bits()),
            rate: Rate::new(settings.messages_per_s_max),
            exported: register(registry, exported),
            dropped: register(registry, IntCounterVec::new(dropped, &["reason"])),
        };
        let inner = Arc::new(inner);
        Ok((
            Tracer(Some(Arc::clone(&inner))),
            exporter.counting(inner.exported.clone(), inner.dropped.clone()),
        ))
    }

    /// Whether anything may be traced.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Changes the share of what is traced without having asked for it.
    pub fn set_sample_ratio(&self, ratio: f64) {
        if let Some(inner) = &self.0 {
            inner.sample_ratio.store(ratio.to_bits(), Ordering::Relaxed);
        }
    }

    /// Goes on with a trace that is recorded already; without a good `traceparent` there is none.
    pub fn adopt(&self, traceparent: Option<&str>) -> Option<TraceParent> {
        self.0.as_ref()?;
        let parent: TraceParent = traceparent?.parse().ok()?;
        self.admit(&parent.sampled.then_some(parent)?)
    }

    /// Decides whether a request or a session is traced: as its `traceparent` says, and without a good one by chance.
    pub fn sample(&self, traceparent: Option<&str>) -> Option<TraceParent> {
        let inner = self.0.as_ref()?;
        let parent = match traceparent.and_then(|text| text.parse::<TraceParent>().ok()) {
            Some(parent) => parent.sampled.then_some(parent)?,
            None => {
                let ratio = f64::from_bits(inner.sample_ratio.load(Ordering::Relaxed));
                if ratio <= 0.0 || rand::random::<f64>() >= ratio {
                    return None;
                }
                TraceParent { trace_id: rand::random::<u128>().max(1), span_id: 0, sampled: true }
            }
        };
        self.admit(&parent)
    }

    /// Whether one more message of a traced session is traced now: a bound on what hostile clients can have recorded.
    pub fn admit(&self, parent: &TraceParent) -> Option<TraceParent> {
        let inner = self.0.as_ref()?;
        if inner.rate.take() {
            return Some(*parent);
        }
        inner.dropped.with_label_values(&["rate"]).inc();
        None
    }

    /// Begins a span under a parent.
    pub fn span(&self, name: &'static str, kind: Kind, parent: &TraceParent) -> Option<Span> {
        self.span_since(name, kind, parent, now())
    }

    /// Begins a span that began earlier, by `SystemTime` in nanoseconds.
    pub fn span_since(
        &self,
        name: &'static str,
        kind: Kind,
        parent: &TraceParent,
        start: u64,
    ) -> Option<Span> {
        self.0.as_ref()?;
        let finished = Finished {
            name,
            kind,
            context: TraceParent { span_id: rand::random::<u64>().max(1), ..*parent },
            parent: parent.span_id,
            start,
            end: start,
            attributes: Vec::new(),
            failed: None,
        };
        Some(Span { tracer: self.clone(), finished: Some(finished) })
    }
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Span {
    /// What its children have as their parent.
    pub fn context(&self) -> TraceParent {
        let none = TraceParent { trace_id: 1, span_id: 0, sampled: false };
        self.finished.as_ref().map_or(none, |finished| finished.context)
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Span {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(finished) = &mut self.finished {
            finished.attributes.push((name, value.into()));
        }
    }

    /// It came to nothing.
    pub fn fail(&mut self, why: impl Into<String>) {
        if let Some(finished) = &mut self.finished {
            finished.failed = Some(why.into());
        }
    }

    /// A span of the log that holds this one's ids: lines within carry them.
    pub fn in_log(&self) -> tracing::Span {
        let TraceParent { trace_id, span_id, .. } = self.context();
        let name = self.finished.as_ref().map_or("", |finished| finished.name);
        tracing::info_span!(
            "traced",
            what = name,
            trace_id = format!("{trace_id:032x}"),
            span_id = format!("{span_id:016x}")
        )
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let (Some(mut finished), Some(inner)) = (self.finished.take(), &self.tracer.0) else { return };
        finished.end = now().max(finished.start);
        if inner.queue.try_send(finished).is_err() {
            inner.dropped.with_label_values(&["queue"]).inc();
        }
    }
}

#[cfg(test)]
mod tests;
