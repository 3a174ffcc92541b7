//! Which commands of other nodes' sessions this worker has not carried out of late. A refused one whose link broke comes
//! once more, and gets the refusal that was lost: what its sender said behind it may be out already, and is not to be
//! overtaken, whatever would let the command pass by now. One that was sent on to another owner comes again, too, and
//! what its session said behind it waits for that: this node may own the lobby by then. Asked and told by the worker
//! alone; it knows nothing of what is allowed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use mlms_protocol::{Epoch, LobbyId, NodeName, Refusal};
use tokio::time::Instant;

/// How long a command is known: longer than any waits for its answer.
const KNOWN_TIME: Duration = Duration::from_secs(5);
/// Beyond so many in that time the oldest are forgotten first.
const KNOWN_MAX: usize = 8_192;

/// A command as its session's node numbers it, whichever of its sendings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Of {
    node: NodeName,
    lobby: LobbyId,
    number: u64,
}

/// Why a command was not carried out.
#[derive(Debug)]
enum Why {
    /// By the lobby's owner of this epoch.
    Refused(Epoch, Refusal),
    /// This worker did not own the lobby, or not any more.
    SentOn,
}

/// The commands of the last seconds that were not carried out.
#[derive(Debug, Default)]
pub(super) struct Refused {
    known: HashMap<Of, (Instant, Why)>,
    by_age: VecDeque<(Instant, Of)>,
}

impl Refused {
    /// Notes a refusal that was given as the lobby's owner of this epoch.
    pub(super) fn note(
        &mut self,
        node: &NodeName,
        lobby: &LobbyId,
        number: u64,
        epoch: Epoch,
        refusal: &Refusal,
    ) {
        let of = Of { node: node.clone(), lobby: lobby.clone(), number };
        self.keep(of, Why::Refused(epoch, refusal.clone()));
    }

    /// Notes a command that was sent on: it will come again, here or elsewhere.
    pub(super) fn note_sent_on(&mut self, node: &NodeName, lobby: &LobbyId, number: u64) {
        self.keep(Of { node: node.clone(), lobby: lobby.clone(), number }, Why::SentOn);
    }

    fn keep(&mut self, of: Of, why: Why) {
        let now = Instant::now();
        while self.by_age.len() >= KNOWN_MAX
            || self.by_age.front().is_some_and(|(since, _)| *since + KNOWN_TIME <= now)
        {
            let Some((since, oldest)) = self.by_age.pop_front() else { break };
            // It may have been noted anew meanwhile.
            if self.known.get(&oldest).is_some_and(|(at, _)| *at == since) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(of.clone(), (now, why));
        self.by_age.push_back((now, of));
    }

    /// Whether a command has come before the one that it follows: that one was sent on, and its session had not heard
    /// of it yet. Then it is sent on behind it. What comes again has been heard of.
    pub(super) fn is_ahead(
        &mut self,
        node: &NodeName,
        lobby: &LobbyId,
        number: u64,
        after: Option<u64>,
    ) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let of = |number| Of { node: node.clone(), lobby: lobby.clone(), number };
        if let Entry::Occupied(known) = self.known.entry(of(number))
            && matches!(known.get().1, Why::SentOn)
        {
            known.remove();
        }
        let is_ahead =
            after.is_some_and(|after| matches!(self.known.get(&of(after)), Some((_, Why::SentOn))));
        if is_ahead {
            self.keep(of(number), Why::SentOn);
        }
        is_ahead
    }

    /// How an earlier sending of this command was refused in the same epoch. In another one somebody else may have
    /// carried it out meanwhile.
    pub(super) fn of(
        &self,
        node: &NodeName,
        lobby: &LobbyId,
        number: u64,
        epoch: Option<Epoch>,
    ) -> Option<Refusal> {
        if self.known.is_empty() {
            return None;
        }
        let of = Of { node: node.clone(), lobby: lobby.clone(), number };
        match &self.known.get(&of)?.1 {
            Why::Refused(then, refusal) if Some(*then) == epoch => Some(refusal.clone()),
            _ => None,
        }
    }

    /// A node has begun anew, and so have its numbers.
    pub(super) fn forget(&mut self, node: &NodeName) {
        self.known.retain(|of, _| of.node != *node);
        self.by_age.retain(|(_, of)| of.node != *node);
    }
}

#[cfg(test)]
mod tests {
    use mlms_protocol::ErrorCode;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_later_sending_finds_the_refusal_for_a_while_and_in_its_epoch_only() {
        let (node, other) = (NodeName::new("node-1").unwrap(), NodeName::new("node-2").unwrap());
        let lobby = LobbyId::new("lobby").unwrap();
        let refusal = Refusal::new(ErrorCode::NotMember, "join the lobby first");
        let mut refused = Refused::default();
        refused.note(&node, &lobby, 3, Epoch(7), &refusal);
        let of = |refused: &Refused, node: &NodeName, number: u64, epoch: u64| {
            refused.of(node, &lobby, number, Some(Epoch(epoch))).is_some()
        };
        assert!(of(&refused, &node, 3, 7));
        assert!(!of(&refused, &node, 4, 7), "another command");
        assert!(!of(&refused, &other, 3, 7), "another node's");
        assert!(!of(&refused, &node, 3, 8), "another epoch");
        assert!(refused.of(&node, &lobby, 3, None).is_none(), "not owned");
        refused.forget(&node);
        assert!(!of(&refused, &node, 3, 7), "the node began anew");
        refused.note(&node, &lobby, 1, Epoch(7), &refusal);
        tokio::time::advance(KNOWN_TIME).await;
        for number in 2..KNOWN_MAX as u64 + 10 {
            refused.note(&node, &lobby, number, Epoch(7), &refusal);
        }
        assert!(!of(&refused, &node, 1, 7), "its time is over");
        assert!(refused.known.len() <= KNOWN_MAX && refused.by_age.len() == refused.known.len());
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_a_command_that_was_sent_on_is_sent_on_until_that_one_comes_again() {
        let node = NodeName::new("node-1").unwrap();
        let (lobby, other) = (LobbyId::new("lobby").unwrap(), LobbyId::new("other").unwrap());
        let mut refused = Refused::default();
        refused.note_sent_on(&node, &lobby, 64);
        assert!(!refused.is_ahead(&node, &lobby, 128, None), "another session's");
        assert!(!refused.is_ahead(&node, &other, 128, Some(64)), "another lobby's");
        assert!(refused.is_ahead(&node, &lobby, 192, Some(64)));
        assert!(refused.is_ahead(&node, &lobby, 256, Some(192)), "the one between was sent on, too");
        for (number, after) in [(64, None), (192, Some(64)), (256, Some(192))] {
            assert!(!refused.is_ahead(&node, &lobby, number, after), "{number} has come again, in its turn");
        }
        refused.note_sent_on(&node, &lobby, 320);
        assert!(!refused.is_ahead(&node, &lobby, 384, None), "the one before was given up");
        refused.note_sent_on(&node, &lobby, 448);
        refused.forget(&node);
        assert!(!refused.is_ahead(&node, &lobby, 512, Some(448)), "the node began anew");
        refused.note_sent_on(&node, &lobby, 576);
        tokio::time::advance(KNOWN_TIME / 2).await;
        assert!(!refused.is_ahead(&node, &lobby, 576, None), "it has come again");
        refused.note_sent_on(&node, &lobby, 576);
        tokio::time::advance(KNOWN_TIME * 3 / 4).await;
        refused.note_sent_on(&node, &lobby, 640);
        assert!(refused.is_ahead(&node, &lobby, 704, Some(576)), "its second note counts its own time");
    }
}
