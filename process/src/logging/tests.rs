//! Lines for machines, and GELF over real sockets.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};

use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::config::{GelfTarget, Transport};

/// Logs through GELF alone.
fn logging(gelf: &Gelf, log: impl FnOnce()) {
    let lines = Lines { json: false, gelf: Some(gelf.clone()) };
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
}

fn target(transport: Transport, address: impl ToString) -> GelfTarget {
    GelfTarget { transport, address: address.to_string() }
}

#[test]
fn gelf_over_udp_carries_fields_spans_and_the_trace() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gelf = Gelf::start(&target(Transport::Udp, server.local_addr().unwrap()));
    logging(&gelf, || {
        let span = tracing::info_span!("session", user = "ann", trace_id = "0af7", span_id = "b7ad");
        let _inside = span.enter();
        tracing::warn!(id = 7, open = true, ratio = 0.5, "it {} so", "is");
    });
    let mut datagram = [0; 8_192];
    let bytes = server.recv(&mut datagram).unwrap();
    let message: Value = serde_json::from_slice(&datagram[..bytes]).unwrap();
    assert_eq!(message["version"], "1.1");
    assert_eq!(message["short_message"], "it is so");
    assert_eq!(message["level"], 4);
    assert!(message["timestamp"].as_f64().unwrap() > 1.6e9 && message["host"].is_string());
    assert_eq!((&message["_user"], &message["_span"]), (&"ann".into(), &"session".into()));
    assert_eq!((&message["_trace_id"], &message["_span_id"]), (&"0af7".into(), &"b7ad".into()));
    assert_eq!(
        (&message["_id_"], &message["_open"], &message["_ratio"]),
        (&7.into(), &"true".into(), &0.5.into())
    );
    assert!(message.get("_id").is_none(), "GELF forbids it");
}

#[test]
fn a_long_line_comes_in_chunks_and_is_whole_again() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gelf = Gelf::start(&target(Transport::Udp, server.local_addr().unwrap()));
    let text = "0123456789".repeat(500);
    logging(&gelf, || tracing::info!(text, "long\nlines"));
    let mut parts: Vec<Option<Vec<u8>>> = Vec::new();
    let mut ids = Vec::new();
    while parts.is_empty() || parts.iter().any(Option::is_none) {
        let mut datagram = [0; 8_192];
        let bytes = server.recv(&mut datagram).unwrap();
        assert!(bytes <= 1_420 && datagram[..2] == [0x1e, 0x0f]);
        ids.push(datagram[2..10].to_vec());
        parts.resize(usize::from(datagram[11]), None);
        parts[usize::from(datagram[10])] = Some(datagram[12..bytes].to_vec());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let whole: Vec<u8> = parts.into_iter().flatten().flatten().collect();
    let message: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(message["_text"], text);
    assert_eq!(
        (&message["short_message"], &message["full_message"]),
        (&"long".into(), &"long\nlines".into())
    );
    let endless = "x".repeat(200_000);
    logging(&gelf, || tracing::info!(endless, "too long"));
    gelf.flush(Duration::from_secs(30));
    assert_eq!(gelf_counts(&gelf), (1, 1), "beyond 128 chunks it is dropped and counted");
}

/// Lines sent and dropped.
fn gelf_counts(gelf: &Gelf) -> (u64, u64) {
    let registry = Registry::new();
    gelf.count_in(&registry);
    let value = |name: &str| {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric()[0].get_counter().get_value() as u64
    };
    (value("mlms_gelf_lines_total"), value("mlms_gelf_lines_dropped_total"))
}

#[test]
fn gelf_over_tcp_ends_each_line_by_a_null_byte_and_comes_back_to_a_server_that_restarts() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let gelf = Gelf::start(&target(Transport::Tcp, server.local_addr().unwrap()));
    logging(&gelf, || {
        tracing::info!("one");
        tracing::info!("two");
    });
    let mut reader = BufReader::new(server.accept().unwrap().0);
    assert_eq!([next(&mut reader), next(&mut reader)], ["one", "two"]);
    drop(reader);
    // The first line into a connection that was cut may be lost; the ones after it are not.
    let again = std::thread::spawn(move || {
        let mut reader = BufReader::new(server.accept().unwrap().0);
        next(&mut reader)
    });
    while !again.is_finished() {
        logging(&gelf, || tracing::info!("three"));
        gelf.flush(Duration::from_secs(5));
        std::thread::yield_now();
    }
    assert_eq!(again.join().unwrap(), "three");
}

fn next(reader: &mut impl BufRead) -> String {
    let mut line = Vec::new();
    reader.read_until(0, &mut line).unwrap();
    assert_eq!(line.pop(), Some(0));
    let message: Value = serde_json::from_slice(&line).unwrap();
    message["short_message"].as_str().unwrap().to_owned()
}

#[test]
fn a_json_line_has_its_fields_flat_and_the_traces_ids_on_top() {
    let fields = |json: Value| json.as_object().unwrap().clone();
    let line = line::Line {
        at: std::time::SystemTime::now(),
        level: tracing::Level::INFO,
        target: "mlms".to_owned(),
        message: "hello".to_owned(),
        fields: fields(serde_json::json!({"count": 3, "level": "mine"})),
        spans: vec![
            ("session", fields(serde_json::json!({"user": "ann", "trace_id": "t1", "span_id": "s1"}))),
            ("command", fields(serde_json::json!({"op": "send", "trace_id": "t1", "span_id": "s2"}))),
        ],
    };
    let json = line.json();
    assert_eq!(
        (&json["message"], &json["count"], &json["level"], &json["_level"]),
        (&"hello".into(), &3.into(), &"INFO".into(), &"mine".into())
    );
    assert_eq!((&json["trace_id"], &json["span_id"]), (&"t1".into(), &"s2".into()));
    assert_eq!((&json["span"]["name"], &json["spans"][0]["user"]), (&"command".into(), &"ann".into()));
    assert!(json["timestamp"].as_str().unwrap().contains('T'));
}
