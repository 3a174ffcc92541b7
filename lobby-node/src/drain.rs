//! A node leaves: it takes nothing new, gives its shards to the other nodes, asks its sessions to leave one after
//! the other, and brings its workers to rest. A hurry or the deadline cuts each step short; what was acknowledged
//! stands in the journal all the same.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use mlms_cluster::view::NodeState;
use mlms_process::shutdown::{Deadline, Shutdown};
use mlms_protocol::placement::nodes_for_shard;
use mlms_protocol::{CloseCode, NodeName, Reconnect, Shard};
use tokio::time::Instant;

use crate::lease;
use crate::node::{Node, NodeConfig};
use crate::worker::{Moved, ToWorker};

/// Shards that move at the same time.
const MOVES_AT_ONCE: usize = 16;
/// Rounds in which no shard moved, after which the rest is left to be claimed. Many: another move of the shard may be
/// under way, and whoever claims does not know who listens to its lobbies.
const ROUNDS_MAX: usize = 50;
/// Pause after such a round.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// Sessions that each of the other nodes may be asked to take in a second.
const ARRIVALS_PER_SECOND: u64 = 500;
/// The shortest time over which players come back, so that even a few do not arrive at once.
const WINDOW_MS: (u64, u64) = (100, 1_000);
/// How long `bye` may take to reach the players when there is no window, or none any more.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the other nodes may take to hear what this one said last. Longer than a lost batch takes to be sent again.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// How long the workers may take to bring journal and event store to rest.
const REST_TIME: Duration = Duration::from_secs(10);
/// The same after a hurry.
const HURRIED_REST_TIME: Duration = Duration::from_secs(1);

/// Takes the node out of service.
pub(crate) async fn drain(node: &Arc<Node>, config: &NodeConfig, shutdown: &Shutdown) {
    node.begin_draining();
    let deadline = shutdown.deadline(config.drain);
    tracing::info!(node = %node.name, sessions = node.sessions().len(), "draining");
    // Told before anything moves, so that nobody sends sessions or shards here.
    if node.directory.renew(&lease::record(node, config)).await.is_err() {
        tracing::debug!(node = %node.name, "nobody could be told that the node is leaving");
    }
    // Half of the time is the sessions'.
    let half = shutdown.deadline(config.drain / 2);
    if half.run(give_shards_away(node)).await.is_err() {
        tracing::info!(node = %node.name, "shards that have not moved are left to be claimed");
    }
    say_goodbye(node, config, &deadline).await;
    let rest_time = if shutdown.hurry().is_cancelled() { HURRIED_REST_TIME } else { REST_TIME };
    if tokio::time::timeout(rest_time, node.ask_all(ToWorker::Rest)).await.is_err() {
        tracing::warn!(node = %node.name, "the event store does not have everything yet; the journal has");
    }
    // Somebody takes over what is left here as soon as the node is gone from the directory; what it said until now must
    // not come later than what they say.
    let last_words = async {
        node.ask_all(ToWorker::LetGo).await;
        node.links.acknowledged().await;
    };
    let farewell_time = if shutdown.hurry().is_cancelled() { LAST_WORDS } else { FAREWELL_TIME };
    if tokio::time::timeout(farewell_time, last_words).await.is_err() {
        tracing::debug!(node = %node.name, "not every node has heard this one's last words");
    }
}

/// The other nodes that take shards.
fn others(node: &Node) -> Vec<NodeName> {
    let view = node.directory.view();
    let ready = view.nodes.values().filter(|other| other.state == NodeState::Ready);
    ready.filter(|other| other.name != node.name).map(|other| other.name.clone()).collect()
}

/// Moves every shard to the node that rendezvous hashing names among the others.
async fn give_shards_away(node: &Node) {
    let mut fruitless = 0;
    while fruitless < ROUNDS_MAX {
        let others = others(node);
        let shards: Vec<Shard> = node.reports().await.into_iter().map(|report| report.shard).collect();
        if shards.is_empty() || others.is_empty() {
            return;
        }
        let moves = shards.into_iter().filter_map(|shard| {
            let to = nodes_for_shard(shard, others.iter()).first().copied()?.clone();
            Some(node.move_shard(shard, to))
        });
        let moved = futures_util::stream::iter(moves).buffer_unordered(MOVES_AT_ONCE);
        let served = moved.filter(|moved| std::future::ready(*moved == Moved::Served)).count().await;
        if served == 0 {
            fruitless += 1;
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }
}

/// Asks all sessions to leave, spread over a time in which the rest of the fleet can take them in, and waits for
/// them.
async fn say_goodbye(node: &Node, config: &NodeConfig, deadline: &Deadline) {
    let sessions = node.sessions();
    let arrivals = ARRIVALS_PER_SECOND * others(node).len().max(1) as u64;
    let spread = Duration::from_millis(sessions.len() as u64 * 1_000 / arrivals).min(config.drain / 2);
    // Half of it passes before a session hears, the other half before it comes back.
    let spread = spread / 2;
    let window = (WINDOW_MS.0, WINDOW_MS.1 + u64::try_from(spread.as_millis()).unwrap_or(0));
    let count = u32::try_from(sessions.len().max(1)).unwrap_or(u32::MAX);
    let began = Instant::now();
    let mut in_time = true;
    for (session, number) in sessions.into_iter().zip(0_u32..) {
        // A hurry or the deadline cuts the spreading short; everyone still gets the word.
        let at = began + spread.mul_f64(f64::from(number) / f64::from(count));
        if in_time && at > Instant::now() {
            in_time = deadline.run(tokio::time::sleep_until(at)).await.is_ok();
        }
        session.outbox.close(CloseCode::Draining, "the node is stopping", Reconnect::Window, Some(window));
    }
    let mut ended = pin!(node.wait_for_sessions());
    // However short the window is, and after a hurry: the word gets a moment to come through.
    if deadline.run(&mut ended).await.is_err() && tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
        let sessions = node.sessions().len();
        tracing::info!(node = %node.name, sessions, "sessions are cut off at the deadline");
    }
}
