//! A node's lease: renewed for as long as the node lives, with its state and its load.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::directory::{RENEWAL, Renewal};
use mlms_cluster::view::{NodeLoad, NodeRecord, NodeState};
use mlms_process::health::{Component, Gate};
use mlms_process::shutdown::Shutdown;

use mlms_protocol::NodeName;
use tokio::time::Instant;

use crate::node::{Node, NodeConfig};
use crate::progress;
use crate::worker::ToWorker;

/// A node that was absent for so long gets no more heartbeats. Should it come back, its link starts anew.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Pause after a renewal that failed. As good as always one is under way: the first to get through is the node's return.
const AGAIN: Duration = Duration::from_millis(200);

/// The node as the directory is to know it.
pub(crate) fn record(node: &Node, config: &NodeConfig) -> NodeRecord {
    let count = |value: i64| u32::try_from(value).unwrap_or(0);
    NodeRecord {
        name: node.name.clone(),
        incarnation: node.incarnation,
        address: config.address.clone(),
        public_url: config.public_url.clone(),
        state: if node.is_draining() { NodeState::Draining } else { NodeState::Ready },
        load: NodeLoad {
            sessions: count(node.metrics.sessions.get()),
            lobbies: count(node.metrics.lobbies.get()),
            shards: count(node.metrics.shards.get()),
            progress: Some(progress::of(node)),
        },
    }
}

/// Holds the lease: renews it, and tells the load with it.
pub(crate) async fn hold(
    node: Arc<Node>,
    config: NodeConfig,
    gate: Gate,
    health: Component,
    shutdown: Shutdown,
) {
    let mut ticker = tokio::time::interval(RENEWAL);
    let mut absences = HashMap::new();
    let mut counted = LinkProblems::default();
    let (mut is_first, mut must_rejoin, mut is_away) = (true, false, false);
    let mut view = node.directory.watch();
    let mut lost = view.borrow().lost;
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            // A directory that has lost its records has lost the leases too.
            Ok(seen) = view.wait_for(|view| view.lost != lost) => lost = seen.lost,
            () = shutdown.drain().cancelled(), if !node.is_draining() => node.begin_draining(),
            // Killed: a dead node renews nothing.
            () = node.stop.cancelled() => return,
        }
        let record = record(&node, &config);
        let (began, wall) = (Instant::now(), node.clock.now());
        match node.directory.renew(&record).await {
            Ok(Renewal::Held) => {
                gate.open();
                health.ok();
                // Others may have given this node up, and taken what it had.
                must_rejoin |= node.on_renewed(began, wall) && !is_first;
                if must_rejoin {
                    must_rejoin = !node.tell_all(|| ToWorker::Rejoin).await;
                }
                is_first = false;
            }
            Ok(Renewal::Superseded) => {
                tracing::error!(node = %node.name, "another process runs under this node's name; stopping");
                health.down("superseded by another process of the same name");
                shutdown.begin();
                return;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!(%error, "the lease could not be renewed");
                }
                health.degraded(error.to_string());
                // Whoever seems absent meanwhile may only be out of sight.
                absences.clear();
                ticker.reset_after(AGAIN);
                continue;
            }
        }
        is_away = false;
        if let Err(error) = node.directory.refresh().await {
            tracing::debug!(%error, "the view could not be read");
        }
        forget_absent(&node, &mut absences);
        counted.count(&node);
    }
}

/// Gives up the links to nodes that have long left the directory.
fn forget_absent(node: &Node, absences: &mut HashMap<NodeName, Instant>) {
    let (view, now) = (node.directory.view(), Instant::now());
    let peers: Vec<_> = node.links.stats().into_iter().map(|link| link.peer).collect();
    absences.retain(|peer, _| !view.nodes.contains_key(peer) && peers.contains(peer));
    if node.standing.is_degraded() {
        // What such a node sees proves nothing.
        return absences.clear();
    }
    for peer in peers.into_iter().filter(|peer| !view.nodes.contains_key(peer)) {
        let since = *absences.entry(peer.clone()).or_insert(now);
        if now.duration_since(since) >= FORGET_AFTER {
            node.links.forget(&peer);
            absences.remove(&peer);
        }
    }
}

/// What the links had counted when the metrics last took it over.
#[derive(Default)]
struct LinkProblems(HashMap<&'static str, u64>);

impl LinkProblems {
    fn count(&mut self, node: &Node) {
        let counts = node.links.counts();
        let resent = node.links.stats().iter().map(|link| link.resent).sum();
        for (kind, total) in [
            ("resent", resent),
            ("publish_failed", counts.publish_failed),
            ("nobody_listened", counts.nobody),
            ("doubled", counts.doubled),
            ("stale", counts.stale),
            ("misdirected", counts.misdirected),
            ("malformed", counts.malformed),
            ("unknown_version", counts.unknown_version),
            ("inbox_full", counts.inbox_dropped),
            ("too_many_peers", counts.refused),
        ] {
            let known = self.0.entry(kind).or_default();
            // A link that was given up takes its own counts with it.
            node.metrics.link_batches.with_label_values(&[kind]).inc_by(total.saturating_sub(*known));
            *known = total;
        }
    }
}
