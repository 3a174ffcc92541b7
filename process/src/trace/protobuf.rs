//! Spans as `ExportTraceServiceRequest` of opentelemetry-proto 1.x, in protobuf's binary form and in its JSON mapping
//! (where OTLP writes ids in hexadecimal). The few fields that are needed, by hand: a code generator would cost more
//! than the whole exporter.

use serde_json::{Map, json};

use super::{Finished, Value};

const SCOPE: &str = "mlms";

/// Status code "error" of opentelemetry-proto.
const STATUS_ERROR: u64 = 2;

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn fixed64(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn message(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// `KeyValue { key = 1, value = 2: AnyValue { string_value = 1 | int_value = 3 } }`
    fn attribute(&mut self, field: u64, name: &str, value: &Value) {
        self.message(field, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.message(2, |any| match value {
                Value::Text(text) => any.bytes(1, text.as_bytes()),
                Value::Number(number) => any.number(3, number.cast_unsigned()),
            });
        });
    }

    fn span(&mut self, span: &Finished) {
        self.bytes(1, &span.context.trace_id.to_be_bytes());
        self.bytes(2, &span.context.span_id.to_be_bytes());
        if span.parent != 0 {
            self.bytes(4, &span.parent.to_be_bytes());
        }
        self.bytes(5, span.name.as_bytes());
        self.number(6, u64::from(span.kind as u8));
        self.fixed64(7, span.start);
        self.fixed64(8, span.end);
        for (name, value) in &span.attributes {
            self.attribute(9, name, value);
        }
        if let Some(why) = &span.failed {
            self.message(15, |status| {
                status.bytes(2, why.as_bytes());
                status.number(3, STATUS_ERROR);
            });
        }
    }
}

/// `resource_spans = 1 { resource = 1 { attributes = 1 }, scope_spans = 2 { scope = 1 { name = 1 }, spans = 2 } }`
pub(super) fn binary(resource: &[(String, String)], spans: &[Finished]) -> Vec<u8> {
    let mut request = Message::default();
    request.message(1, |resource_spans| {
        resource_spans.message(1, |message| {
            for (name, value) in resource {
                message.attribute(1, name, &Value::Text(value.clone()));
            }
        });
        resource_spans.message(2, |scope_spans| {
            scope_spans.message(1, |scope| scope.bytes(1, SCOPE.as_bytes()));
            for span in spans {
                scope_spans.message(2, |message| message.span(span));
            }
        });
    });
    request.0
}

pub(super) fn json(resource: &[(String, String)], spans: &[Finished]) -> Vec<u8> {
    let any = |value: &Value| match value {
        Value::Text(text) => json!({ "stringValue": text }),
        // 64-bit numbers are texts in protobuf's JSON.
        Value::Number(number) => json!({ "intValue": number.to_string() }),
    };
    let spans: Vec<serde_json::Value> = spans
        .iter()
        .map(|span| {
            let attributes: Vec<_> = span
                .attributes
                .iter()
                .map(|(name, value)| json!({ "key": name, "value": any(value) }))
                .collect();
            let mut written = Map::new();
            let mut put = |name: &str, value: serde_json::Value| written.insert(name.to_owned(), value);
            put("traceId", format!("{:032x}", span.context.trace_id).into());
            put("spanId", format!("{:016x}", span.context.span_id).into());
            if span.parent != 0 {
                put("parentSpanId", format!("{:016x}", span.parent).into());
            }
            put("name", span.name.into());
            put("kind", (span.kind as u8).into());
            put("startTimeUnixNano", span.start.to_string().into());
            put("endTimeUnixNano", span.end.to_string().into());
            put("attributes", attributes.into());
            if let Some(why) = &span.failed {
                put("status", json!({ "message": why, "code": STATUS_ERROR }));
            }
            written.into()
        })
        .collect();
    let resource: Vec<_> = resource
        .iter()
        .map(|(name, value)| json!({ "key": name, "value": { "stringValue": value } }))
        .collect();
    let request = json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": SCOPE }, "spans": spans }],
    }]});
    request.to_string().into_bytes()
}
