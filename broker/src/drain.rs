//! Stopping: the nodes send the sessions of this broker their `bye`, spread over the window; what is left at the
//! end is cut.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use mlms_process::shutdown::Deadline;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{CloseCode, SessionId};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::edge::Edge;
use crate::metrics::ByeOutcome;
use crate::node::{self, NodeRefusal};

/// Session ids in one request; about 18 KiB.
pub(crate) const BATCH: usize = 500;
/// Sessions that the other brokers may be asked to take in a second.
const ARRIVALS_PER_SECOND: u64 = 500;
/// The shortest time over which players come back, so that even a few do not arrive at once.
const WINDOW: Duration = Duration::from_secs(1);
/// How long `bye` may take to reach the players when there is no window, or none any more.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Attempts to tell a node.
const TRIES: usize = 2;

/// Lets the tunnels end until the deadline, and ends what is left. Returns when there is none.
pub(crate) async fn drain(edge: &Arc<Edge>, deadline: &Deadline) {
    edge.tunnels.close();
    // The last quarter of the window is for the players' own closes.
    let most = deadline.remaining() * 3 / 4;
    let mut leave = pin!(async {
        announce(edge, most, deadline).await;
        edge.tunnels.wait().await;
    });
    // However short the window is, and after a hurry: the word gets a moment to come through.
    if deadline.run(&mut leave).await.is_err() && tokio::time::timeout(LAST_WORDS, leave).await.is_err() {
        tracing::info!(tunnels = edge.tunnels.len(), "the window is over; what is left is cut");
    }
    edge.cut.cancel();
    edge.tunnels.wait().await;
}

/// Tells every node which of its sessions lose their broker: all nodes at once, each batch after batch, spread over a time
/// in which other brokers can take them in. Whoever has heard is without a connection until it comes back, so that the
/// time is as short as their number lets it be, and `most` of it at most.
async fn announce(edge: &Edge, most: Duration, deadline: &Deadline) {
    let count = u64::try_from(edge.sessions.count()).unwrap_or(u64::MAX);
    let spread = Duration::from_millis(count.saturating_mul(1_000) / ARRIVALS_PER_SECOND).min(most);
    // Half of it passes before a session hears, the other half before it comes back.
    let spread = spread / 2;
    let window = (WINDOW + spread).min(most);
    let began = Instant::now();
    let mut nodes = JoinSet::new();
    for (address, sessions) in edge.sessions.snapshot() {
        let (keys, metrics, deadline) = (edge.keys.clone(), edge.metrics.clone(), deadline.clone());
        nodes.spawn(async move {
            let batches = u32::try_from(sessions.len().div_ceil(BATCH)).unwrap_or(u32::MAX).max(1);
            for (batch, number) in sessions.chunks(BATCH).zip(0_u32..) {
                let at = began + spread * number / batches;
                // A hurry or the deadline cuts the spreading short; everyone still gets the word.
                let _ = deadline.run(tokio::time::sleep_until(at)).await;
                let outcome = announce_batch(&address, &keys, batch, CloseCode::Draining, window).await;
                metrics.bye(outcome);
            }
        });
    }
    nodes.join_all().await;
}

pub(crate) async fn announce_batch(
    address: &str,
    keys: &ClusterKeys,
    sessions: &[SessionId],
    code: CloseCode,
    window: Duration,
) -> ByeOutcome {
    for attempt in 1..=TRIES {
        match node::announce_leaving(address, keys, sessions, code, window).await {
            Ok(()) => return ByeOutcome::Taken,
            // Nobody listens there: the node is going itself, and ends its sessions with a word of its own.
            Err(refusal) if is_going(&refusal) => {
                tracing::info!(node = address, attempt, %refusal, "a node that goes was not told who leaves");
            }
            Err(refusal) => {
                tracing::warn!(node = address, attempt, %refusal, "a node was not told who leaves");
            }
        }
    }
    ByeOutcome::Failed
}

/// Nobody listens any more, or the connection ended before the answer.
fn is_going(refusal: &NodeRefusal) -> bool {
    match refusal {
        NodeRefusal::Connect(error) => {
            matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
        }
        NodeRefusal::Broken(_) => true,
        _ => false,
    }
}
