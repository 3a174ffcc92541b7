//! What the node's journals hold that is not yet in the database and on its way out: counted by the workers, bounded
//! by the operator. At the bound durable messages are refused, until the backlog has shrunk by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use mlms_protocol::{Class, LobbyCommand, UserId};
use mlms_store::Award;

use crate::node::Node;
use crate::wire::LinkMessage;
use mlms_protocol::Event;

/// Bytes in the journals of a node that wait for the database or the message broker.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Backlog {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Backlog { bytes: AtomicU64::new(0), bytes_max }
    }

    /// Replaces what one worker has counted before; gives the sum of all, and whether the bound was passed by it, in
    /// either direction.
    pub(crate) fn count(&self, before: u64, now: u64) -> Option<bool> {
        let old = match now.checked_sub(before) {
            Some(more) => self.bytes.fetch_add(more, Ordering::Relaxed),
            None => self.bytes.fetch_sub(before - now, Ordering::Relaxed),
        };
        let new = (old + now) - before;
        let (was, is) = (old >= self.bytes_max, new >= self.bytes_max);
        (was != is).then_some(is)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }
}

/// Whether a command is refused while the backlog is full: what players can send without end.
pub(crate) fn grows_journal(command: &LobbyCommand) -> bool {
    match command {
        LobbyCommand::Send(send) => send.class == Class::Durable,
        LobbyCommand::Edit { .. } | LobbyCommand::React { .. } | LobbyCommand::Report { .. } => true,
        _ => false,
    }
}

impl Node {
    /// Tells a player's sessions of an award, wherever they are.
    pub(crate) fn announce(&self, award: &Award) {
        let view = self.directory.view();
        for node in view.nodes.keys().filter(|node| **node != self.name) {
            self.links.send(node, LinkMessage::Achievement(award.clone().into()).encode());
        }
        self.tell_achievement(&award.user, &award.achievement, award.at);
    }

    /// Tells the sessions of this node.
    pub(crate) fn tell_achievement(&self, user: &UserId, achievement: &str, at: mlms_protocol::Millis) {
        let event = Event::Achievement { user: user.clone(), achievement: achievement.to_owned(), at };
        for session in self.sessions_of(user) {
            session.outbox.push_event(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_passed_once_in_each_direction() {
        let backlog = Backlog::new(100);
        assert_eq!(backlog.count(0, 60), None);
        assert_eq!(backlog.count(0, 40), Some(true));
        assert!(backlog.is_full());
        assert_eq!(backlog.count(40, 70), None);
        assert_eq!(backlog.count(70, 0), Some(false));
        assert!(!backlog.is_full());
    }
}
