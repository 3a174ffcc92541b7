//! Spans all the way to a collector, over real HTTP.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{ProcessRole, Settings, TraceEncoding};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A request as the collector got it.
#[derive(Clone)]
struct Got {
    head: Vec<String>,
    body: Vec<u8>,
}

/// Takes every request, and answers as the script says; 200 when it is over.
struct Collector {
    url: String,
    got: watch::Receiver<Vec<Got>>,
}

impl Collector {
    async fn start(script: impl Into<VecDeque<&'static str>>) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(script.into()));
        let (sender, got) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = script.lock().unwrap().pop_front().unwrap_or("200 OK\r\n");
                let got = take(stream, answer).await;
                sender.send_modify(|all| all.push(got));
            }
        });
        Collector { url, got }
    }

    async fn requests(&mut self, count: usize) -> Vec<Got> {
        let got = self.got.wait_for(|got| got.len() >= count);
        tokio::time::timeout(Duration::from_secs(60), got).await.unwrap().unwrap().clone()
    }
}

async fn take(stream: TcpStream, answer: &str) -> Got {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap() == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_lowercase());
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    let answer = format!("HTTP/1.1 {answer}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.into_inner().write_all(answer.as_bytes()).await.unwrap();
    Got { head, body }
}

fn settings(collector: &Collector, encoding: TraceEncoding) -> TraceSettings {
    let mut settings = Settings::defaults(ProcessRole::Standalone).trace;
    settings.otlp_url = Some(collector.url.clone());
    settings.headers = vec!["x-tenant=games".to_owned().into()];
    TraceSettings { encoding, sample_ratio: 0.0, ..settings }
}

struct Running {
    tracer: Tracer,
    registry: Registry,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(settings: &TraceSettings) -> Running {
        let registry = Registry::new();
        let (tracer, exporter) =
            Tracer::new(settings, &[("service.name", "mlms-broker")], &registry).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(exporter.run(stop.clone()));
        Running { tracer, registry, stop, task }
    }

    /// The sum of a counter over all its labels.
    fn counted(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], |family| family.get_metric());
        metrics.iter().map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// A parent and its child, which fails.
fn two_spans(tracer: &Tracer) {
    let sampled = tracer.sample(Some(PARENT)).unwrap();
    let parent =
        tracer.span("connect", Kind::Server, &sampled).unwrap().with("lobby", "den").with("size", 300_u64);
    let mut child = tracer.span("append", Kind::Client, &parent.context()).unwrap();
    child.fail("no answer");
}

#[tokio::test]
async fn spans_come_as_json_with_parents_attributes_and_failures() {
    let mut collector = Collector::start([]).await;
    let running = Running::start(&settings(&collector, TraceEncoding::Json));
    two_spans(&running.tracer);
    let got = collector.requests(1).await.remove(0);
    assert_eq!(got.head[0], "post /v1/traces http/1.1");
    assert!(got.head.contains(&"content-type: application/json".to_owned()), "{:?}", got.head);
    assert!(got.head.contains(&"x-tenant: games".to_owned()), "{:?}", got.head);
    let json: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    let resource = &json["resourceSpans"][0];
    assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "mlms-broker");
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
    let (child, parent) = (&spans[0], &spans[1]);
    assert_eq!((&parent["name"], &child["name"]), (&"connect".into(), &"append".into()));
    assert_eq!(parent["traceId"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(parent["parentSpanId"], "b7ad6b7169203331");
    assert_eq!((&child["traceId"], &child["parentSpanId"]), (&parent["traceId"], &parent["spanId"]));
    assert_eq!((&parent["kind"], &child["kind"]), (&2.into(), &3.into()));
    assert_eq!(parent["attributes"][0], serde_json::json!({"key": "lobby", "value": {"stringValue": "den"}}));
    assert_eq!(parent["attributes"][1]["value"]["intValue"], "300");
    assert_eq!(child["status"], serde_json::json!({"message": "no answer", "code": 2}));
    let nanoseconds =
        |span: &serde_json::Value, name: &str| -> u64 { span[name].as_str().unwrap().parse().unwrap() };
    assert!(nanoseconds(parent, "startTimeUnixNano") <= nanoseconds(child, "startTimeUnixNano"));
    assert!(nanoseconds(child, "endTimeUnixNano") <= nanoseconds(parent, "endTimeUnixNano"));
    running.end().await;
}

/// The fields of a protobuf message: numbers, and what is in the length-delimited ones.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, &[u8])> {
    let varint = |bytes: &mut &[u8]| {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let (number, inner): (u64, &[u8]) = match key & 7 {
            0 => (varint(&mut bytes), &[]),
            1 => {
                let (eight, rest) = bytes.split_at(8);
                bytes = rest;
                (u64::from_le_bytes(eight.try_into().unwrap()), &[])
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (inner, rest) = bytes.split_at(length);
                bytes = rest;
                (0, inner)
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, number, inner));
    }
    fields
}

fn inner<'a>(message: &[(u64, u64, &'a [u8])], field: u64) -> Vec<&'a [u8]> {
    message.iter().filter(|(number, ..)| *number == field).map(|(.., inner)| *inner).collect()
}

#[tokio::test]
async fn spans_come_as_protobuf_too() {
    let mut collector = Collector::start([]).await;
    let running = Running::start(&settings(&collector, TraceEncoding::Protobuf));
    two_spans(&running.tracer);
    let got = collector.requests(1).await.remove(0);
    assert!(got.head.contains(&"content-type: application/x-protobuf".to_owned()), "{:?}", got.head);
    let resource_spans = fields(inner(&fields(&got.body), 1)[0]);
    let resource = fields(inner(&resource_spans, 1)[0]);
    let pair = fields(inner(&resource, 1)[0]);
    assert_eq!(
        (inner(&pair, 1)[0], inner(&fields(inner(&pair, 2)[0]), 1)[0]),
        (&b"service.name"[..], &b"mlms-broker"[..])
    );
    let scope_spans = fields(inner(&resource_spans, 2)[0]);
    let spans: Vec<_> = inner(&scope_spans, 2).into_iter().map(fields).collect();
    let (child, parent) = (&spans[0], &spans[1]);
    let number =
        |span: &[(u64, u64, &[u8])], field| span.iter().find(|(number, ..)| *number == field).unwrap().1;
    assert_eq!(inner(parent, 5)[0], b"connect");
    assert_eq!(inner(parent, 1)[0], 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(inner(parent, 4)[0], 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!((inner(child, 1)[0], inner(child, 4)[0]), (inner(parent, 1)[0], inner(parent, 2)[0]));
    assert_eq!((number(parent, 6), number(child, 6)), (2, 3));
    assert!(number(parent, 7) > 1_600_000_000_000_000_000 && number(parent, 7) <= number(parent, 8));
    let size = fields(inner(parent, 9)[1]);
    assert_eq!((inner(&size, 1)[0], number(&fields(inner(&size, 2)[0]), 3)), (&b"size"[..], 300));
    let status = fields(inner(child, 15)[0]);
    assert_eq!((inner(&status, 2)[0], number(&status, 3)), (&b"no answer"[..], 2));
    running.end().await;
}

#[tokio::test]
async fn a_collector_that_asks_for_patience_gets_the_same_again_and_one_that_refuses_does_not() {
    let script =
        ["503 Later\r\nretry-after: 0\r\n", "429 Slowly\r\nretry-after: 0\r\n", "200 OK\r\n", "400 No\r\n"];
    let mut collector = Collector::start(script).await;
    let running = Running::start(&settings(&collector, TraceEncoding::Protobuf));
    two_spans(&running.tracer);
    let got = collector.requests(3).await;
    assert!(got.iter().all(|one| one.body == got[0].body));
    two_spans(&running.tracer);
    collector.requests(4).await;
    // What comes after it is sent as before.
    two_spans(&running.tracer);
    collector.requests(5).await;
    while running.counted("mlms_spans_exported_total") < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(running.counted("mlms_spans_dropped_total"), 2);
    running.end().await;
}

#[tokio::test]
async fn what_was_gathered_is_sent_at_the_end() {
    let mut collector = Collector::start([]).await;
    let running = Running::start(&settings(&collector, TraceEncoding::Json));
    two_spans(&running.tracer);
    running.end().await;
    assert_eq!(collector.requests(1).await.len(), 1);
}

#[tokio::test]
async fn only_what_is_sampled_is_traced_and_not_more_than_the_rate() {
    let collector = Collector::start([]).await;
    let mut settings = settings(&collector, TraceEncoding::Json);
    settings.messages_per_s_max = 2;
    let running = Running::start(&settings);
    let tracer = &running.tracer;
    assert_eq!(tracer.sample(Some(&PARENT.replace("-01", "-00"))), None, "its sender does not want it");
    assert_eq!(tracer.sample(None), None);
    assert_eq!(tracer.sample(Some("nonsense")), None);
    tracer.set_sample_ratio(1.0);
    let begun = tracer.sample(None).unwrap();
    assert_eq!((begun.span_id, begun.sampled), (0, true), "a trace begins here");
    assert_eq!(tracer.sample(Some(PARENT)), Some(PARENT.parse().unwrap()));
    let admitted = (0..100).filter(|_| tracer.sample(Some(PARENT)).is_some()).count();
    assert!(admitted < 100, "the rate bounds what strangers can have recorded");
    assert!(running.counted("mlms_spans_dropped_total") > 0);
    running.end().await;

    let off = TraceSettings { otlp_url: None, ..settings };
    let (tracer, exporter) = Tracer::new(&off, &[], &Registry::new()).unwrap();
    assert!(!tracer.is_on());
    assert_eq!(tracer.sample(Some(PARENT)), None);
    exporter.run(CancellationToken::new()).await;
}
