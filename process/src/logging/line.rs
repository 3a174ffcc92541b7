//! One line of the log as a machine reads it: the event's fields, those of the spans around it, and the ids of the
//! trace that it belongs to.

use std::fmt;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::gelf::Gelf;

/// Names that the line itself uses; a field of such a name gets a line in front.
const RESERVED: [&str; 6] = ["timestamp", "level", "target", "message", "span", "spans"];

/// Names of the fields by which a span says to what trace it belongs.
const TRACE_IDS: [&str; 2] = ["trace_id", "span_id"];

/// Writes lines for machines.
pub(super) struct Lines {
    /// JSON on standard error.
    pub(super) json: bool,
    pub(super) gelf: Option<Gelf>,
}

/// What an event says.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) at: SystemTime,
    pub(super) level: Level,
    pub(super) target: String,
    pub(super) message: String,
    pub(super) fields: Map<String, Value>,
    /// From the outermost to the innermost.
    pub(super) spans: Vec<(&'static str, Map<String, Value>)>,
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().trim_start_matches("r#").to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Map::new();
        attributes.record(&mut Fields(&mut fields));
        span.extensions_mut().replace(SpanFields(fields));
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut::<SpanFields>() {
            record.record(&mut Fields(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        event.record(&mut Fields(&mut fields));
        let message = match fields.remove("message") {
            Some(Value::String(message)) => message,
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let around = context.event_scope(event).into_iter().flat_map(|scope| scope.from_root());
        let spans = around.map(|span| {
            let fields = span.extensions().get::<SpanFields>().map(|fields| fields.0.clone());
            (span.name(), fields.unwrap_or_default())
        });
        let line = Line {
            at: SystemTime::now(),
            level: *event.metadata().level(),
            target: event.metadata().target().to_owned(),
            message,
            fields,
            spans: spans.collect(),
        };
        if self.json {
            let mut text = line.json().to_string();
            text.push('\n');
            // Nobody is left to be told when standard error is closed.
            let _ = std::io::stderr().lock().write_all(text.as_bytes());
        }
        if let Some(gelf) = &self.gelf {
            gelf.send(&line);
        }
    }
}

impl Line {
    /// The ids of the innermost span that has them.
    pub(super) fn trace_ids(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let innermost = self.spans.iter().rev().find(|(_, fields)| fields.contains_key(TRACE_IDS[0]));
        innermost
            .into_iter()
            .flat_map(|(_, fields)| TRACE_IDS.iter().filter_map(|name| Some((*name, fields.get(*name)?))))
    }

    pub(super) fn json(&self) -> Value {
        let mut line = Map::new();
        let mut timestamp = String::new();
        if tracing_subscriber::fmt::time::SystemTime.format_time(&mut Writer::new(&mut timestamp)).is_err() {
            timestamp = self.seconds().to_string();
        }
        line.insert("timestamp".to_owned(), timestamp.into());
        line.insert("level".to_owned(), self.level.as_str().into());
        line.insert("message".to_owned(), self.message.as_str().into());
        for (name, value) in &self.fields {
            let name = if RESERVED.contains(&name.as_str()) { format!("_{name}") } else { name.clone() };
            line.insert(name, value.clone());
        }
        line.insert("target".to_owned(), self.target.as_str().into());
        for (name, value) in self.trace_ids() {
            line.insert(name.to_owned(), value.clone());
        }
        let named = |(name, fields): &(&str, Map<String, Value>)| {
            let mut fields = fields.clone();
            fields.insert("name".to_owned(), (*name).into());
            Value::Object(fields)
        };
        if let Some(innermost) = self.spans.last() {
            line.insert("span".to_owned(), named(innermost));
            line.insert("spans".to_owned(), self.spans.iter().map(named).collect());
        }
        Value::Object(line)
    }

    /// Seconds since 1970.
    pub(super) fn seconds(&self) -> f64 {
        self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }
}
