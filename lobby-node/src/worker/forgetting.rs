//! A lobby forgets a user for good. Its owner has changed what it holds in memory (`lobby/forgetting.rs`); here the rest
//! follows, and only then the answer: a snapshot that does not know the user any more, the journal let go of up to it,
//! ahead of the resume window, and the event store's copy of the lobby replaced.

use bytes::Bytes;
use mlms_cluster::journal::EntryId;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Answer, Epoch, ErrorCode, LobbyId, Millis, Seq, Shard};
use mlms_store::StoreError;
use tokio::time::Instant;

use super::live::{LobbySlot, Task};
use super::shard::{OwnedShard, ShardSlot};
use super::{Done, Envelope, Worker};

/// Commands of one shard that may be on this way.
const FORGETTING_MAX: usize = 256;

/// A command whose lobby has forgotten in memory.
pub(super) struct Forgetting {
    envelope: Envelope,
    stage: Stage,
}

enum Stage {
    /// No snapshot was taken since.
    Decided,
    /// One is on its way into the journal.
    Taken(Stored),
    /// It is there: the entries up to this one are not needed any more.
    Covered(EntryId, Stored),
}

/// The lobby as the event store shall have it.
struct Stored {
    seq: Seq,
    epoch: Epoch,
    at: Millis,
    closed: bool,
    state: Bytes,
}

impl OwnedShard {
    /// A snapshot was taken of these lobbies.
    pub(super) fn note_taken(&mut self, states: &[(LobbyId, Seq, Bytes)]) {
        for forgetting in &mut self.forgetting {
            let taken = states.iter().find(|(lobby, ..)| *lobby == forgetting.envelope.lobby);
            if let (Stage::Decided, Some((id, seq, bytes))) = (&forgetting.stage, taken)
                && let Some(LobbySlot::Live(lobby)) = self.lobbies.get(id)
            {
                let (epoch, at, closed) = (lobby.state.epoch, lobby.state.at, !lobby.state.open);
                forgetting.stage =
                    Stage::Taken(Stored { seq: *seq, epoch, at, closed, state: bytes.clone() });
            }
        }
    }

    /// The snapshots that were on their way cover the journal up to here; `None`: nobody knows whether they do.
    /// `true`: there are commands that they came too early for.
    pub(super) fn note_covered(&mut self, covers: Option<EntryId>) -> bool {
        for forgetting in &mut self.forgetting {
            forgetting.stage = match (std::mem::replace(&mut forgetting.stage, Stage::Decided), covers) {
                (Stage::Taken(stored), Some(covers)) => Stage::Covered(covers, stored),
                (Stage::Taken(_), None) => Stage::Decided,
                (stage, _) => stage,
            };
        }
        self.forgetting.iter().any(|forgetting| matches!(forgetting.stage, Stage::Decided))
    }

    /// The journal was written anew: all over again.
    pub(super) fn forget_again(&mut self) {
        self.forgetting.iter_mut().for_each(|forgetting| forgetting.stage = Stage::Decided);
    }

    fn covered(&self) -> impl Iterator<Item = EntryId> {
        self.forgetting.iter().filter_map(|forgetting| match forgetting.stage {
            Stage::Covered(through, _) => Some(through),
            _ => None,
        })
    }

    /// Up to where entries are let go of as soon as the event store has them, however young they are.
    pub(super) fn forgotten(&self) -> EntryId {
        self.covered().max().unwrap_or_default()
    }

    /// Up to where nothing is kept here, and something may still be in the journal.
    pub(super) fn forgotten_here(&self) -> Option<EntryId> {
        let first = self.kept.front().map(|logged| logged.id);
        self.covered().filter(|through| first.is_none_or(|first| first > *through)).max()
    }

    /// Those who wait, for whoever owns the shard next.
    pub(super) fn give_up_forgetting(&mut self) -> impl Iterator<Item = Task> {
        self.forgetting.drain(..).map(|forgetting| Task::Command(forgetting.envelope))
    }
}

impl Worker {
    pub(super) fn begin_forgetting(&mut self, envelope: Envelope) {
        let shard = shard_of(&envelope.lobby);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        if owned.forgetting.len() >= FORGETTING_MAX {
            let text = "too many players are forgotten at once";
            return self.refuse(&envelope, ErrorCode::Overloaded, text, Some(1_000));
        }
        owned.forgetting.push(Forgetting { envelope, stage: Stage::Decided });
        self.take_snapshots(shard);
        self.retry_forgetting(shard);
    }

    /// Where a snapshot could not be taken or saved, the next sweep takes another.
    pub(super) fn retry_forgetting(&mut self, shard: Shard) {
        if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard)
            && owned.forgetting.iter().any(|forgetting| matches!(forgetting.stage, Stage::Decided))
        {
            owned.next_snapshot = Instant::now();
        }
    }

    /// Lets go of what the journal has up to here.
    pub(super) fn trim_journal(&mut self, shard: Shard, through: EntryId) {
        let journal = self.node.journal.clone();
        self.spawn(async move {
            // Trimming is tidiness: what was left over now is trimmed with the next.
            let is_done = journal.trim(shard, through).await.is_ok();
            Done::Trimmed { shard, through, is_done }
        });
    }

    pub(super) fn on_trimmed(&mut self, shard: Shard, through: EntryId, is_done: bool) {
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        if !is_done || owned.forgetting.is_empty() {
            return;
        }
        let (done, others) = std::mem::take(&mut owned.forgetting)
            .into_iter()
            .partition(|one| matches!(one.stage, Stage::Covered(covered, _) if covered <= through));
        owned.forgetting = others;
        let done: Vec<Forgetting> = done;
        for Forgetting { envelope, stage } in done {
            let Stage::Covered(_, stored) = stage else { continue };
            let store = self.node.store.clone();
            self.spawn(async move {
                let Stored { seq, epoch, at, closed, state } = stored;
                let result = store.save_lobby(&envelope.lobby, seq, epoch, at, closed, &state).await;
                Done::Forgotten { envelope: Box::new(envelope), result }
            });
        }
    }

    pub(super) fn on_forgotten(&mut self, envelope: Envelope, result: Result<(), StoreError>) {
        match result {
            Ok(()) => self.answer_session(envelope, Ok(Answer::Done)),
            Err(error) => {
                tracing::warn!(lobby = %envelope.lobby, %error, "a lobby's copy in the database is an old one");
                let text = "the database is out of reach";
                self.refuse(&envelope, ErrorCode::Degraded, text, Some(1_000));
            }
        }
    }
}
