//! The newest events of a lobby, kept in memory for resuming and for history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::command::Position;
use mlms_protocol::lobby::METADATA_BYTES_MAX;
use mlms_protocol::{Body, Change, Epoch, Limits, LobbyEvent, Millis, Seq};

/// A run of events without gaps, up to the newest.
#[derive(Debug, Clone, Default)]
pub(super) struct Recent {
    events: VecDeque<Arc<LobbyEvent>>,
    bytes: usize,
}

/// What an event costs in memory, near enough for a bound.
fn cost(event: &LobbyEvent) -> usize {
    160 + match &event.change {
        Change::Message { body, .. } | Change::Edited { body, .. } => body.byte_len(),
        Change::GameFinished { players, results, .. } => {
            results.as_ref().map_or(0, Body::byte_len) + 32 * players.len()
        }
        // Settings and attributes are bounded by this much.
        Change::Updated { .. } => METADATA_BYTES_MAX,
        _ => 0,
    }
}

impl Recent {
    pub(super) fn push(&mut self, event: Arc<LobbyEvent>) {
        if self.events.back().is_some_and(|last| last.seq.next() != event.seq) {
            self.events.clear();
            self.bytes = 0;
        }
        self.bytes += cost(&event);
        self.events.push_back(event);
    }

    /// Forgets what is out of the resume window and in the database.
    pub(super) fn trim(&mut self, limits: &Limits, saved: Seq, now: Millis) {
        let age = Duration::from_secs(limits.resume_seconds_max);
        while let Some(oldest) = self.events.front() {
            let over = self.events.len() > limits.resume_events_max
                || self.bytes > limits.resume_bytes_max
                || oldest.at.after(age) < now;
            if !over || oldest.seq > saved {
                break;
            }
            self.bytes -= cost(oldest);
            self.events.pop_front();
        }
    }

    /// The events behind a seq, ascending; `None` when some of them are not here any more.
    pub(super) fn after(&self, seq: Seq) -> Option<impl Iterator<Item = &Arc<LobbyEvent>>> {
        let first = self.events.front()?.seq;
        let skip = usize::try_from(seq.next().0.checked_sub(first.0)?).ok()?;
        Some(self.events.range(skip.min(self.events.len())..))
    }

    /// The seq before the oldest event here.
    pub(super) fn floor(&self) -> Option<Seq> {
        self.events.front().map(|event| Seq(event.seq.0 - 1))
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Arc<LobbyEvent>> {
        let first = self.events.front()?.seq;
        self.events.get(usize::try_from(seq.0.checked_sub(first.0)?).ok()?)
    }

    /// Gives a message another body, for everybody who reads it from now on.
    pub(super) fn alter(&mut self, of: Seq, body: Option<&Body>) {
        let Some(first) = self.events.front().map(|event| event.seq) else { return };
        let Some(index) = of.0.checked_sub(first.0).and_then(|index| usize::try_from(index).ok()) else {
            return;
        };
        let Some(event) = self.events.get_mut(index) else { return };
        if let Some(altered) = event.with_body(body) {
            self.bytes = self.bytes - cost(event) + cost(&altered);
            *event = Arc::new(altered);
        }
    }

    /// Changes events in their places.
    pub(super) fn rewrite(&mut self, change: impl FnMut(&mut Arc<LobbyEvent>)) {
        self.events.iter_mut().for_each(change);
        self.bytes = self.events.iter().map(|event| cost(event)).sum();
    }

    pub(super) fn epoch_of(&self, seq: Seq) -> Option<Epoch> {
        self.get(seq).map(|event| event.epoch)
    }

    /// The number of events behind a position, if a client at it can go on from there: nothing behind it is
    /// forgotten, and its epoch fits the events on both sides.
    pub(super) fn missed_since(
        &self,
        position: Position,
        head: Seq,
        head_epoch: Epoch,
        owner: Epoch,
    ) -> Option<u64> {
        if position.seq > head || position.epoch > owner {
            return None;
        }
        if position.seq == head {
            return (position.epoch >= head_epoch).then_some(0);
        }
        if self.floor()? > position.seq {
            return None;
        }
        let next = self.epoch_of(position.seq.next())?;
        let before = self.epoch_of(position.seq);
        let fits = position.epoch <= next && before.is_none_or(|before| before <= position.epoch);
        fits.then_some(head.0 - position.seq.0)
    }
}
