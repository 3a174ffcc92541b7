//! Bans from the service at a node: the list is kept up to date, and whoever comes onto it loses its sessions. A ticket
//! of somebody banned is refused by the listener.

use std::sync::Arc;

use mlms_protocol::{CloseCode, Reconnect};

use crate::node::Node;
use crate::session::SessionHandle;

/// Follows the list until the node stops.
pub(crate) async fn follow(node: Arc<Node>) {
    let mut bans = node.bans.watch();
    let enforce = async {
        while bans.changed().await.is_ok() {
            bans.mark_unchanged();
            for session in node.sessions() {
                end_if_banned(&node, &session);
            }
        }
    };
    tokio::select! {
        () = node.bans.follow(&node.store) => {}
        () = enforce => {}
        () = node.stop.cancelled() => {}
    }
}

/// Ends a session whose user is kept out.
pub(crate) fn end_if_banned(node: &Node, session: &SessionHandle) {
    if node.bans.holds(&session.caller.user, node.clock.now()) {
        session.outbox.close(CloseCode::Banned, "banned from the service", Reconnect::Never, None);
    }
}
