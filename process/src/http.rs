//! The accept loop of every listener: HTTP/1 connections served by hyper, bounded in number, header size and
//! handshake time, able to upgrade. It is given a bound listener, so that a test can bind port 0.

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::register;

/// Pause after a failed accept. Out of file descriptors, the next accept would fail at once and spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection beyond the cap is told.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Bounds of one listener.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Time for a request's whole head, also the first after the connection was accepted or left idle.
    pub header_read_timeout: Duration,
    /// Bytes of a request's head; beyond it the answer is 431.
    pub header_bytes_max: usize,
    /// Header lines of a request; beyond it the answer is 431.
    pub header_lines_max: usize,
    /// Connections at once, upgraded ones as long as their `Held` lives, and what comes within them and has a `Held` of
    /// its own; one more is told 503.
    pub connections_max: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions {
            header_read_timeout: Duration::from_secs(5),
            header_bytes_max: 16 * 1024,
            header_lines_max: 64,
            connections_max: 100_000,
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// A connection's place under `connections_max`. Every request carries it as an extension; an upgraded connection
/// that keeps a clone goes on counting after the HTTP part has ended.
#[derive(Clone)]
pub struct Held {
    place: Arc<Place>,
}

struct Place {
    open: IntGauge,
    permit: OwnedSemaphorePermit,
}

impl Held {
    fn new(open: IntGauge, permit: OwnedSemaphorePermit) -> Held {
        open.inc();
        Held { place: Arc::new(Place { open, permit }) }
    }

    /// A place for one that comes within this connection, and counts like a connection. `None`: all are taken.
    #[must_use]
    pub fn one_more(&self) -> Option<Held> {
        let permit = Arc::clone(self.place.permit.semaphore()).try_acquire_owned().ok()?;
        Some(Held::new(self.place.open.clone(), permit))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// Counters of one listener.
#[derive(Clone)]
pub struct ListenerMetrics {
    open: IntGauge,
    accepted: IntCounter,
    refused: IntCounterVec,
    accept_errors: IntCounter,
}

impl ListenerMetrics {
    /// Registers the listener's metrics; `listener` is a fixed word such as `public`, `node` or `admin`.
    ///
    /// # Panics
    /// When the same listener is registered twice in one registry.
    pub fn new(registry: &Registry, listener: &str) -> ListenerMetrics {
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("listener", listener);
        ListenerMetrics {
            open: register(
                registry,
                IntGauge::with_opts(opts("mlms_connections", "Open connections, upgraded ones included.")),
            ),
            accepted: register(
                registry,
                IntCounter::with_opts(opts("mlms_connections_accepted_total", "Connections accepted.")),
            ),
            refused: register(
                registry,
                IntCounterVec::new(
                    opts("mlms_connections_refused_total", "Connections refused."),
                    &["reason"],
                ),
            ),
            accept_errors: register(
                registry,
                IntCounter::with_opts(opts(
                    "mlms_accept_errors_total",
                    "Failed accepts, each followed by a pause.",
                )),
            ),
        }
    }
}

/// Serves connections until `stop`, then finishes the requests under way and returns. Upgraded connections are the
/// service's own; they are not waited for. Dropping the future closes the listener at once.
///
/// The service is called once a request; a connection's requests come one after the other.
pub async fn serve<S, F, B>(
    listener: TcpListener,
    options: HttpOptions,
    metrics: ListenerMetrics,
    service: S,
    stop: CancellationToken,
) where
    S: Fn(Request<Incoming>, PeerAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
    let connections = TaskTracker::new();
    let protocol = protocol(&options);
    let mut failing = false;
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => {
                failing = false;
                accepted
            }
            Err(error) => {
                metrics.accept_errors.inc();
                // One line for a row of failures; the counter has them all.
                if !failing {
                    tracing::warn!(%error, "cannot accept connections");
                }
                failing = true;
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
                continue;
            }
        };
        let Ok(permit) = places.clone().try_acquire_owned() else {
            metrics.refused.with_label_values(&["too_many_connections"]).inc();
            refuse(stream);
            continue;
        };
        metrics.accepted.inc();
        let held = Held::new(metrics.open.clone(), permit);
        // Small frames must not wait for the acknowledgement of earlier ones.
        let _ = stream.set_nodelay(true);
        connections.spawn(connection(
            protocol.clone(),
            stream,
            PeerAddr(peer),
            held,
            service.clone(),
            stop.clone(),
        ));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn protocol(options: &HttpOptions) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_read_timeout)
        .max_header_size(options.header_bytes_max)
        .max_headers(options.header_lines_max)
        // At least what hyper demands (8 KiB), and room for the head.
        .max_buf_size((options.header_bytes_max + 1_024).max(8_192))
        .half_close(false);
    protocol
}

/// Serves one connection until it ends, upgrades, or has answered its last request after `stop`.
async fn connection<S, F, B>(
    protocol: http1::Builder,
    stream: TcpStream,
    peer: PeerAddr,
    held: Held,
    service: S,
    stop: CancellationToken,
) where
    S: Fn(Request<Incoming>, PeerAddr) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(held.clone());
        request.extensions_mut().insert(peer);
        let response = service(request, peer);
        // An async block would hold room for the response twice.
        response.map(Ok::<_, Infallible>)
    });
    let connection = protocol.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, peer = %peer.0, "connection ended");
    }
}

/// Tells a connection beyond the cap to come back later, without waiting for it.
fn refuse(stream: TcpStream) {
    // One try: the socket's buffer is empty, so this takes the whole answer or the peer is gone.
    let _ = stream.into_std().and_then(|mut stream| stream.write(REFUSAL));
}

#[cfg(test)]
mod tests;
