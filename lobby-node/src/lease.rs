//! A node's lease: renewed for as long as the node lives, with its state and its load.

use std::sync::Arc;

use mlms_cluster::directory::{RENEWAL, Renewal};
use mlms_cluster::view::{NodeLoad, NodeRecord, NodeState};
use mlms_process::health::{Component, Gate};
use mlms_process::shutdown::Shutdown;

use crate::node::{Node, NodeConfig};

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
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shutdown.drain().cancelled(), if !node.is_draining() => node.begin_draining(),
            // Killed: a dead node renews nothing.
            () = node.stop.cancelled() => return,
        }
        let record = record(&node, &config);
        match node.directory.renew(&record).await {
            Ok(Renewal::Held) => {
                gate.open();
                health.ok();
            }
            Ok(Renewal::Superseded) => {
                tracing::error!(node = %node.name, "another process runs under this node's name; stopping");
                health.down("superseded by another process of the same name");
                shutdown.begin();
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed");
                health.degraded(error.to_string());
            }
        }
        if let Err(error) = node.directory.refresh().await {
            tracing::debug!(%error, "the view could not be read");
        }
    }
}
