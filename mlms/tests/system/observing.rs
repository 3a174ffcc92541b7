//! What the process tells others about itself: spans to a collector, lines to a GELF server, metrics to statsd.

use std::collections::{HashMap, HashSet};
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::cluster::{Cluster, PATIENCE};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A collector that keeps every span.
struct Collector {
    url: String,
    incoming: mpsc::Receiver<Value>,
    spans: Vec<Value>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, incoming) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut length = 0;
                let mut line = String::new();
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    let lower = line.to_lowercase();
                    length =
                        lower.strip_prefix("content-length: ").map_or(length, |n| n.trim().parse().unwrap());
                    line.clear();
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                    .await
                    .unwrap();
                if sender.send(serde_json::from_slice(&body).unwrap()).await.is_err() {
                    return;
                }
            }
        });
        Collector { url, incoming, spans: Vec::new() }
    }

    /// Waits until spans of all these names are there.
    async fn until(&mut self, names: &[&str]) {
        let has = |spans: &[Value], name: &str| spans.iter().any(|span| span["name"] == name);
        while let Some(missing) = names.iter().find(|name| !has(&self.spans, name)) {
            let request = tokio::time::timeout(PATIENCE, self.incoming.recv()).await;
            let request = request.unwrap_or_else(|_| panic!("no span {missing}")).unwrap();
            for resource in request["resourceSpans"].as_array().unwrap() {
                let scopes = resource["scopeSpans"].as_array().unwrap();
                self.spans.extend(scopes.iter().flat_map(|scope| scope["spans"].as_array().unwrap().clone()));
            }
        }
    }
}

#[tokio::test]
async fn a_sampled_session_is_followed_through_all_parts_and_no_other_is() {
    let mut collector = Collector::start().await;
    let environment = [
        ("MLMS_TRACE_OTLP_URL", collector.url.as_str()),
        ("MLMS_TRACE_ENCODING", "json"),
        ("MLMS_TRACE_SAMPLE_RATIO", "0"),
        ("MLMS_LOG", "info,mlms_broker=debug,mlms_lobby_node=debug"),
    ];
    let mut cluster = Cluster::with(&environment).await;
    let bearer = format!("Bearer {}", cluster.token("ann"));
    let traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let headers = [("authorization", bearer.as_str()), ("traceparent", traceparent.as_str())];
    let mut ann = cluster.open("/ws?lobby=den", &headers).await.unwrap();
    ann.event("snapshot").await;
    // Somebody whose session is on the other node.
    let mut away = None;
    for number in 0..64 {
        let mut player = cluster.player(&format!("p{number}")).await;
        if player.welcome["node"] != ann.welcome["node"] {
            player.join("den").await;
            away = Some(player);
            break;
        }
    }
    let mut away = away.expect("one of many users is placed on the other node");
    ann.chat("den", "traced").await;
    away.hears("traced").await;
    away.chat("den", "not traced").await;
    ann.hears("not traced").await;
    let names = [
        "connect",
        "session.open",
        "session.command",
        "owner.command",
        "journal.append",
        "relay.event",
        "deliver",
        "archive.write",
        "events.publish",
        "achievements.count",
    ];
    collector.until(&names).await;
    cluster.stop().await;

    let ids: HashSet<&str> = collector.spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    let name_of: HashMap<&str, &str> = collector
        .spans
        .iter()
        .map(|span| (span["spanId"].as_str().unwrap(), span["name"].as_str().unwrap()))
        .collect();
    for span in &collector.spans {
        assert_eq!(span["traceId"], TRACE, "only what was asked for is recorded: {span}");
        let parent = span["parentSpanId"].as_str().unwrap();
        assert!(parent == "b7ad6b7169203331" || ids.contains(parent), "{span}");
    }
    let parent = |name: &str| {
        let span = collector.spans.iter().rfind(|span| span["name"] == name).unwrap();
        name_of.get(span["parentSpanId"].as_str().unwrap()).copied()
    };
    assert_eq!(parent("connect"), None);
    assert_eq!(parent("session.open"), Some("connect"));
    assert_eq!(parent("session.command"), Some("session.open"));
    assert_eq!(parent("owner.command"), Some("session.command"));
    assert_eq!(parent("journal.append"), Some("owner.command"));
    assert_eq!(parent("relay.event"), Some("owner.command"));
    assert_eq!(parent("archive.write"), Some("owner.command"));
    assert_eq!(parent("achievements.count"), Some("events.publish"));
    let delivered = collector.spans.iter().filter(|span| span["name"] == "deliver");
    assert!(
        delivered
            .clone()
            .any(|span| name_of.get(span["parentSpanId"].as_str().unwrap()) == Some(&"relay.event"))
    );
    // The log's lines within carry the ids.
    let log = cluster.log();
    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.find(|line| line["message"] == "a traced session begins").expect("it is logged");
    assert_eq!(line["trace_id"], TRACE);
    assert_eq!(name_of.get(line["span_id"].as_str().unwrap()), Some(&"session.open"));
}

#[tokio::test]
async fn lines_go_to_gelf_and_metrics_to_statsd() {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let [gelf, statsd] = sockets;
    let gelf_url = format!("udp://{}", gelf.local_addr().unwrap());
    let statsd_address = statsd.local_addr().unwrap().to_string();
    let environment = [
        ("MLMS_LOG_GELF", gelf_url.as_str()),
        ("MLMS_STATSD_ADDRESS", statsd_address.as_str()),
        ("MLMS_STATSD_PERIOD_SECONDS", "1"),
    ];
    let mut cluster = Cluster::with(&environment).await;
    let mut ann = cluster.player_in("ann", "den").await;
    ann.chat("den", "hello").await;
    let wanted = [
        "mlms_messages_total:1|c|#class:durable,node:node-",
        "mlms_commands_total:",
        "mlms_ready:1|g",
        "process_open_fds:",
    ];
    let (statsd, seen) = tokio::task::spawn_blocking(move || {
        statsd.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut seen = String::new();
        let mut datagram = [0; 65_536];
        while wanted.iter().any(|wanted| !seen.contains(wanted)) {
            let bytes = statsd.recv(&mut datagram).unwrap_or_else(|error| panic!("{error}: {seen}"));
            seen.push_str(std::str::from_utf8(&datagram[..bytes]).unwrap());
            seen.push('\n');
        }
        (statsd, seen)
    })
    .await
    .unwrap();
    for line in seen.lines() {
        let (name, rest) = line.split_once(':').unwrap();
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        assert!(rest.contains("|c") || rest.contains("|g"), "{line}");
    }
    cluster.stop().await;
    drop(statsd);
    gelf.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut datagram = [0; 65_536];
    let mut messages = Vec::new();
    while let Ok(bytes) = gelf.recv(&mut datagram) {
        messages.push(serde_json::from_slice::<Value>(&datagram[..bytes]).unwrap());
    }
    let said = |text: &str| messages.iter().any(|message| message["short_message"] == text);
    assert!(said("stopped"), "the last line is sent before the end: {}", json!(messages));
    assert!(messages.iter().all(|message| message["version"] == "1.1" && message["host"].is_string()));
}
