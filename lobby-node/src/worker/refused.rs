//! Which commands of other nodes' sessions this worker has refused of late. A command whose link broke comes once more,
//! and gets the refusal that was lost: what its sender said behind it may be out already, and is not to be overtaken,
//! whatever would let the command pass by now. Asked and told by the worker alone; it knows nothing of what is allowed.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use mlms_protocol::{Epoch, LobbyId, NodeName, Refusal};
use tokio::time::Instant;

/// How long a refusal is known: longer than any command waits for its answer.
const KNOWN_TIME: Duration = Duration::from_secs(5);
/// Beyond so many refusals in that time the oldest are forgotten first.
const KNOWN_MAX: usize = 8_192;

/// A command as its session's node numbers it, whichever of its sendings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Of {
    node: NodeName,
    lobby: LobbyId,
    number: u64,
}

/// The refusals of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Refused {
    known: HashMap<Of, (Epoch, Refusal)>,
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
        let now = Instant::now();
        while self.by_age.len() >= KNOWN_MAX
            || self.by_age.front().is_some_and(|(since, _)| *since + KNOWN_TIME <= now)
        {
            let Some((_, oldest)) = self.by_age.pop_front() else { break };
            self.known.remove(&oldest);
        }
        let of = Of { node: node.clone(), lobby: lobby.clone(), number };
        if self.known.insert(of.clone(), (epoch, refusal.clone())).is_none() {
            self.by_age.push_back((now, of));
        }
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
        let (then, refusal) = self.known.get(&of)?;
        (Some(*then) == epoch).then(|| refusal.clone())
    }

    /// A node has begun anew, or is gone: its numbers begin anew, too.
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
}
