//! Spans on their way to a collector: gathered for a second, sent as OTLP over HTTP, sent again where the collector
//! asks for patience, dropped and counted where it does not take them.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, Request, Response, header};
use bytes::Bytes;
use prometheus::{IntCounter, IntCounterVec};
use rand::Rng;
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Finished, protobuf};
use crate::config::{TraceEncoding, TraceSettings};
use crate::web::Server;

/// Spans in one request.
const BATCH_MAX: usize = 512;
/// How long spans gather.
const PERIOD: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);
/// Tries for one batch; the pause between them doubles.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that a collector may ask to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// What is left at the end of the process gets this long.
const LAST: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends spans; to be run beside the process's other tasks.
pub struct Exporter(Option<Box<Sending>>);

struct Sending {
    server: Server,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    encoding: TraceEncoding,
    resource: Vec<(String, String)>,
    spans: mpsc::Receiver<Finished>,
    counters: Option<(IntCounter, IntCounterVec)>,
    failing: bool,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Exporter(on)" } else { "Exporter(off)" })
    }
}

impl Exporter {
    pub(super) fn idle() -> Exporter {
        Exporter(None)
    }

    /// None: no collector is named.
    pub(super) fn new(
        settings: &TraceSettings,
        resource: &[(&str, &str)],
        spans: mpsc::Receiver<Finished>,
    ) -> Result<Option<Exporter>, String> {
        let Some(url) = &settings.otlp_url else { return Ok(None) };
        let server = Server::new(url)?;
        let path = match server.path() {
            "" | "/" => "/v1/traces".to_owned(),
            path => path.to_owned(),
        };
        let mut headers = Vec::new();
        for line in &settings.headers {
            let (name, value) = line.expose_secret().split_once('=').unwrap_or_default();
            let name = HeaderName::try_from(name).map_err(|_| "a header of trace.headers has no name")?;
            let mut value =
                HeaderValue::try_from(value).map_err(|_| format!("the header {name} cannot be sent"))?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        let resource = resource.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Ok(Some(Exporter(Some(Box::new(Sending {
            server,
            path,
            headers,
            encoding: settings.encoding,
            resource: resource.collect(),
            spans,
            counters: None,
            failing: false,
        })))))
    }

    pub(super) fn counting(mut self, exported: IntCounter, dropped: IntCounterVec) -> Exporter {
        if let Some(sending) = &mut self.0 {
            sending.counters = Some((exported, dropped));
        }
        self
    }

    /// Sends until `stop`, and then what is left.
    pub async fn run(self, stop: CancellationToken) {
        let Exporter(Some(mut sending)) = self else { return };
        let mut batch = Vec::new();
        while stop.run_until_cancelled(sending.gather(&mut batch)).await.is_some() {
            if stop.run_until_cancelled(sending.send(&batch)).await.is_none() {
                break;
            }
            batch.clear();
        }
        let last = async {
            loop {
                while batch.len() < BATCH_MAX
                    && let Ok(span) = sending.spans.try_recv()
                {
                    batch.push(span);
                }
                if batch.is_empty() {
                    return;
                }
                sending.send(&batch).await;
                batch.clear();
            }
        };
        if tokio::time::timeout(LAST, last).await.is_err() {
            tracing::debug!("spans are left behind");
        }
    }
}

impl Sending {
    /// Waits for spans, and for more of them until the batch is full or a period is over.
    async fn gather(&mut self, batch: &mut Vec<Finished>) {
        if self.spans.recv_many(batch, BATCH_MAX).await == 0 {
            // Every tracer is gone.
            return std::future::pending().await;
        }
        let end = tokio::time::Instant::now() + PERIOD;
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            match tokio::time::timeout_at(end, self.spans.recv_many(batch, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    async fn send(&mut self, batch: &[Finished]) {
        let count = batch.len() as u64;
        let (body, kind) = match self.encoding {
            TraceEncoding::Protobuf => (protobuf::binary(&self.resource, batch), "application/x-protobuf"),
            TraceEncoding::Json => (protobuf::json(&self.resource, batch), "application/json"),
        };
        let body = Bytes::from(body);
        let mut pause = PAUSE;
        for _ in 0..TRIES {
            let mut request = Request::post(&self.path).header(header::CONTENT_TYPE, kind);
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
            let asked = self.server.ask(request, body.clone(), ANSWER_BYTES_MAX);
            let why = match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(response)) if response.status().is_success() => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("the collector takes spans again");
                    }
                    if let Some((exported, _)) = &self.counters {
                        exported.inc_by(count);
                    }
                    return;
                }
                // OTLP: these may be tried again, any other may not.
                Ok(Ok(response)) => {
                    let status = response.status();
                    if !matches!(status.as_u16(), 429 | 502 | 503 | 504) {
                        return self.give_up("refused", count, &format!("answered {status}"));
                    }
                    pause = retry_after(&response).unwrap_or(pause);
                    format!("answered {status}")
                }
                Ok(Err(why)) => why,
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            self.complain(&why);
            let spread = rand::rng().random_range(0.75..1.25);
            tokio::time::sleep(pause.mul_f64(spread)).await;
            pause *= 2;
        }
        self.give_up("unreachable", count, "tried often enough");
    }

    fn complain(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!("the collector does not take spans: {why}");
        }
    }

    fn give_up(&mut self, reason: &str, count: u64, why: &str) {
        self.complain(why);
        if let Some((_, dropped)) = &self.counters {
            dropped.with_label_values(&[reason]).inc_by(count);
        }
    }
}

fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}
