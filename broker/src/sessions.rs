//! The sessions whose bytes this broker carries, by the node they are on: what a draining broker tells its nodes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use mlms_protocol::SessionId;

/// All sessions in tunnels; bounded by the listener's connections.
#[derive(Default)]
pub(crate) struct Sessions {
    by_node: Mutex<HashMap<Arc<str>, HashSet<SessionId>>>,
}

/// Keeps one session on the list while it lives.
pub(crate) struct Listed {
    sessions: Arc<Sessions>,
    node_address: Arc<str>,
    session: SessionId,
}

impl Sessions {
    /// Puts a session on the list.
    pub(crate) fn list(self: &Arc<Self>, node_address: &str, session: SessionId) -> Listed {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        let node_address = match by_node.get_key_value(node_address) {
            Some((address, _)) => address.clone(),
            None => Arc::from(node_address),
        };
        by_node.entry(node_address.clone()).or_default().insert(session.clone());
        Listed { sessions: self.clone(), node_address, session }
    }

    pub(crate) fn count(&self) -> usize {
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.values().map(HashSet::len).sum()
    }

    /// All sessions, by their node's address.
    pub(crate) fn snapshot(&self) -> Vec<(Arc<str>, Vec<SessionId>)> {
        let by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.iter().map(|(node, sessions)| (node.clone(), sessions.iter().cloned().collect())).collect()
    }
}

impl Listed {
    pub(crate) fn session(&self) -> &SessionId {
        &self.session
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut by_node = self.sessions.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = by_node.get_mut(&self.node_address) {
            sessions.remove(&self.session);
            if sessions.is_empty() {
                by_node.remove(&self.node_address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_listed_while_its_tunnel_lives() {
        let sessions = Arc::new(Sessions::default());
        let first = sessions.list("node-1:1", SessionId::generate());
        let second = sessions.list("node-1:1", SessionId::generate());
        assert_eq!(sessions.snapshot().len(), 1);
        assert_eq!(sessions.snapshot()[0].1.len(), 2);
        drop(first);
        assert_eq!(sessions.snapshot(), [(Arc::from("node-1:1"), vec![second.session.clone()])]);
        drop(second);
        assert!(sessions.snapshot().is_empty());
    }
}
