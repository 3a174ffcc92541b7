//! What the edge counts. One struct a broker, its handles resolved once; labels are enums of this crate.

use mlms_process::metrics::register;
use mlms_protocol::ErrorCode;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::node::NodeRefusal;
use crate::refusal::Refusal;
use crate::tunnel::Ending;

/// The broker's metrics; cloning shares them.
#[derive(Clone)]
pub(crate) struct Metrics {
    connections: IntGauge,
    trunks: IntGauge,
    handshakes: IntCounterVec,
    handshake_seconds: Histogram,
    node_failures: IntCounterVec,
    endings: IntCounterVec,
    byes: IntCounterVec,
    leveled: IntCounter,
    requests: IntCounterVec,
    refused: IntCounterVec,
    /// Tokens minted for guests.
    pub(crate) guests: IntCounter,
    /// Tickets handed out for a connection that the client opens itself.
    pub(crate) tickets: IntCounter,
    /// Bytes carried from players to nodes.
    pub(crate) bytes_to_node: IntCounter,
    /// Bytes carried from nodes to players.
    pub(crate) bytes_to_client: IntCounter,
}

/// What became of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    Accepted,
    /// Answered with a close of its own, before any node was asked.
    UnsupportedSubprotocol,
    Refused(Refusal),
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Outcome::Accepted => "accepted",
            Outcome::UnsupportedSubprotocol => "unsupported_subprotocol",
            Outcome::Refused(refusal) => refusal.reason(),
        }
    }
}

/// A route of the public listener other than the WebSocket's, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Connect,
    Guests,
    Lobbies,
    Members,
    Messages,
    Invites,
    Games,
    Players,
    Bans,
    Audit,
    Reports,
    Health,
    Page,
    Unknown,
}

impl Route {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Route::Connect => "connect",
            Route::Guests => "guests",
            Route::Lobbies => "lobbies",
            Route::Members => "members",
            Route::Messages => "messages",
            Route::Invites => "invites",
            Route::Games => "games",
            Route::Players => "players",
            Route::Bans => "bans",
            Route::Audit => "audit",
            Route::Reports => "reports",
            Route::Health => "health",
            Route::Page => "page",
            Route::Unknown => "unknown",
        }
    }
}

/// What became of the news of leaving sessions that a draining broker sends to a node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ByeOutcome {
    Taken,
    Failed,
}

/// Holds a gauge up while it lives.
pub(crate) struct Open(IntGauge);

impl Open {
    fn new(gauge: &IntGauge) -> Open {
        gauge.inc();
        Open(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Panics
    /// When two brokers share a registry.
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |name, help| register(registry, IntCounter::new(name, help));
        let counters = |name, help, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let handshake_seconds = HistogramOpts::new(
            "mlms_broker_handshake_seconds",
            "Time from a player's request to the answer, for accepted connections.",
        )
        .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let bytes =
            counters("mlms_broker_carried_bytes_total", "Bytes carried by tunnels, by where to.", &["to"]);
        Metrics {
            connections: register(
                registry,
                IntGauge::new("mlms_broker_connections", "Tunnels open between players and nodes."),
            ),
            trunks: register(
                registry,
                IntGauge::new("mlms_broker_trunks", "Connections to nodes that carry many tunnels each."),
            ),
            handshakes: counters(
                "mlms_broker_handshakes_total",
                "Requests for a WebSocket, by what became of them.",
                &["outcome"],
            ),
            handshake_seconds: register(registry, Histogram::with_opts(handshake_seconds)),
            node_failures: counters(
                "mlms_broker_node_failures_total",
                "Attempts to hand a session to a node that failed, by reason.",
                &["reason"],
            ),
            endings: counters(
                "mlms_broker_tunnels_ended_total",
                "Tunnels that ended, by who ended them.",
                &["by"],
            ),
            leveled: register(
                registry,
                IntCounter::new(
                    "mlms_broker_leveled_total",
                    "Sessions asked to come again, as other brokers have more room.",
                ),
            ),
            byes: counters(
                "mlms_broker_bye_batches_total",
                "Batches of session ids that are to leave, sent to nodes, by outcome.",
                &["outcome"],
            ),
            requests: counters(
                "mlms_broker_requests_total",
                "Requests other than for a WebSocket, by route and status.",
                &["route", "status"],
            ),
            refused: counters(
                "mlms_broker_requests_refused_total",
                "Refused requests other than for a WebSocket, by reason.",
                &["reason"],
            ),
            guests: counter("mlms_broker_guest_tokens_total", "Tokens minted for guests."),
            tickets: counter(
                "mlms_broker_tickets_total",
                "Tickets handed out for connections that clients open themselves.",
            ),
            bytes_to_node: bytes.with_label_values(&["node"]),
            bytes_to_client: bytes.with_label_values(&["client"]),
        }
    }

    pub(crate) fn tunnel_opened(&self) -> Open {
        Open::new(&self.connections)
    }

    pub(crate) fn trunk_opened(&self) -> Open {
        Open::new(&self.trunks)
    }

    pub(crate) fn tunnel_ended(&self, ending: Ending) {
        self.endings.with_label_values(&[ending.label()]).inc();
    }

    pub(crate) fn handshake(&self, outcome: Outcome, took: std::time::Duration) {
        self.handshakes.with_label_values(&[outcome.label()]).inc();
        if matches!(outcome, Outcome::Accepted) {
            self.handshake_seconds.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn node_failed(&self, refusal: &NodeRefusal) {
        self.node_failures.with_label_values(&[refusal.reason()]).inc();
    }

    pub(crate) fn request(&self, route: Route, status: hyper::StatusCode) {
        self.requests.with_label_values(&[route.label(), status.as_str()]).inc();
    }

    pub(crate) fn refused(&self, refusal: Refusal) {
        self.refused.with_label_values(&[refusal.reason()]).inc();
    }

    pub(crate) fn leveled(&self, sessions: usize) {
        self.leveled.inc_by(sessions as u64);
    }

    /// A lobby's owner said no.
    pub(crate) fn refused_by_owner(&self, code: ErrorCode) {
        self.refused.with_label_values(&[code.as_str()]).inc();
    }

    pub(crate) fn bye(&self, outcome: ByeOutcome) {
        let outcome = match outcome {
            ByeOutcome::Taken => "taken",
            ByeOutcome::Failed => "failed",
        };
        self.byes.with_label_values(&[outcome]).inc();
    }
}
