//! How far each user has read, on all devices together, and how much is unread. Marks are no events: nobody else is told,
//! and the journal keeps them beside the lobby's next event.

use std::collections::{BTreeMap, VecDeque};

use mlms_protocol::event::{ReadMark, UNREAD_MAX};
use mlms_protocol::{Change, LobbyEvent, Seq, UserId};
use serde::{Deserialize, Serialize};

/// Marks that are kept of users who are not members any more; beyond it those that reach least far are forgotten, half
/// of them at once.
const FORMER_MAX: usize = 4_096;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Marks {
    read: BTreeMap<UserId, Seq>,
    /// The newest chats.
    chats: VecDeque<Seq>,
}

impl Marks {
    pub(super) fn apply(&mut self, event: &LobbyEvent) {
        match &event.change {
            Change::Message { kind, from, key: None, .. } if kind.is_chat() => {
                self.chats.push_back(event.seq);
                if self.chats.len() > UNREAD_MAX {
                    self.chats.pop_front();
                }
                // Whoever answers has read; and nobody's own words are news to him.
                if let Some(from) = from {
                    self.raise(from, event.seq);
                }
            }
            // What was said before somebody came for the first time is no news, either.
            Change::Joined { user, .. } => _ = self.read.entry(user.clone()).or_insert(event.seq),
            Change::Deleted { of, .. } => {
                if let Ok(place) = self.chats.binary_search(of) {
                    self.chats.remove(place);
                }
            }
            Change::Closed { .. } => *self = Marks::default(),
            _ => {}
        }
    }

    /// A mark only ever goes forward. `false`: it was there already.
    pub(super) fn raise(&mut self, user: &UserId, seq: Seq) -> bool {
        match self.read.get_mut(user) {
            Some(known) if *known >= seq => false,
            Some(known) => {
                *known = seq;
                true
            }
            None => {
                self.read.insert(user.clone(), seq);
                true
            }
        }
    }

    pub(super) fn forget(&mut self, user: &UserId) {
        self.read.remove(user);
    }

    pub(super) fn of(&self, user: &UserId) -> ReadMark {
        let read = self.read.get(user).copied().unwrap_or_default();
        let known = self.chats.partition_point(|seq| *seq <= read);
        ReadMark { read, unread: u32::try_from(self.chats.len() - known).unwrap_or(u32::MAX) }
    }

    /// Forgets users who left long ago, when there are many more marks than members.
    pub(super) fn tidy_beyond(&mut self, members: usize, is_member: impl Fn(&UserId) -> bool) {
        if self.read.len() <= members + FORMER_MAX {
            return;
        }
        let former = self.read.iter().filter(|(user, _)| !is_member(user));
        let mut former: Vec<_> = former.map(|(user, seq)| (*seq, user.clone())).collect();
        former.sort();
        for (_, user) in former.drain(..FORMER_MAX / 2) {
            self.read.remove(&user);
        }
    }
}
