//! What the judge knows of one lobby: what was sent, what was seen under each seq, who came and went.
//!
//! It only gathers; `verdict.rs` judges at the end what cannot be judged on the way.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::process::At;
use crate::record::Class;

/// The highest seq that anybody knows, and the line that shows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) seq: u64,
    pub(super) line: u64,
}

/// Follows [`Known`] so that what happened at the same time does not count as before.
#[derive(Default)]
pub(super) struct Knowledge {
    t: u64,
    before: Known,
    now: Known,
}

impl Knowledge {
    pub(super) fn raise(&mut self, at: At, seq: u64) {
        if at.t > self.t {
            self.before = self.now;
            self.t = at.t;
        }
        if seq > self.now.seq {
            self.now = Known { seq, line: at.line };
        }
    }

    pub(super) fn before(&self, t: u64) -> Known {
        if t > self.t { self.now } else { self.before }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Open,
    Ok { at: At, epoch: u64, seq: Option<u64>, dup: bool },
    Refused { definite: bool },
    Unknown,
}

pub(super) struct Send {
    pub(super) user: u32,
    pub(super) connection: u32,
    /// Place among all sends of this connection to this lobby.
    pub(super) place: u32,
    /// Place among the ordered ones of them.
    pub(super) ordinal: u32,
    pub(super) class: Class,
    pub(super) kind: u32,
    pub(super) body: u32,
    pub(super) to: Vec<u32>,
    pub(super) invoked: At,
    pub(super) floor: Known,
    pub(super) outcome: Outcome,
    /// Of a durable one.
    pub(super) group: Option<u32>,
    /// The line that last heard it, of an unsequenced one.
    pub(super) heard: u64,
}

/// The sends that may make one event: all with one nonce, or all that say the same without one.
pub(super) struct Group {
    pub(super) has_nonce: bool,
    pub(super) attempts: Vec<u32>,
    /// Distinct seqs under which the event was seen or acknowledged.
    pub(super) seqs: Vec<(u64, u64)>,
}

impl Group {
    pub(super) fn assign(&mut self, seq: u64, line: u64) {
        if !self.seqs.iter().any(|(known, _)| *known == seq) {
            self.seqs.push((seq, line));
        }
    }
}

/// What an event says, apart from its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Content {
    pub(super) epoch: u64,
    pub(super) ev: u32,
    pub(super) kind: Option<u32>,
    pub(super) from: Option<u32>,
    pub(super) user: Option<u32>,
    pub(super) of: Option<u64>,
}

pub(super) struct Slot {
    pub(super) content: Content,
    pub(super) nonce: Option<u32>,
    pub(super) body: u32,
    pub(super) by: Option<u32>,
    pub(super) spectator: bool,
    pub(super) at: At,
    pub(super) group: Option<u32>,
    pub(super) delivered: bool,
    pub(super) in_final: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Removal {
    pub(super) seq: u64,
    pub(super) invoked: At,
    pub(super) ok: At,
}

/// An ok of a join or resume, of any process of a user.
#[derive(Clone, Copy)]
pub(super) struct Entered {
    pub(super) t: u64,
    pub(super) seq: u64,
    pub(super) resumed: bool,
}

/// An ok that names a seq.
pub(super) struct Acked {
    pub(super) seq: u64,
    pub(super) at: At,
    pub(super) send: Option<u32>,
}

#[derive(Clone, Copy)]
pub(super) struct Final {
    pub(super) after: u64,
    pub(super) started: u64,
    pub(super) line: u64,
}

/// An unsequenced message: who, kind, body.
pub(super) type Saying = (u32, u32, u32);

#[derive(Default)]
pub(super) struct Lobby {
    pub(super) name: u32,
    pub(super) sends: Vec<Send>,
    pub(super) groups: Vec<Group>,
    by_nonce: HashMap<(u32, u32), u32>,
    by_saying: HashMap<Saying, Vec<u32>>,
    /// Unsequenced sends by what they say.
    pub(super) loose: HashMap<Saying, Vec<u32>>,
    /// Unsequenced deliveries that no send explained yet.
    pub(super) strays: Vec<(Saying, At)>,
    pub(super) sends_of: HashMap<u32, Vec<u32>>,
    pub(super) ordered_of: HashMap<u32, Vec<u32>>,
    pub(super) slots: HashMap<u64, Slot>,
    /// Bodies that differ from the first one seen under the seq.
    pub(super) odd_bodies: Vec<(u64, u32, u64)>,
    /// Seqs of messages that were edited or deleted.
    pub(super) changed: HashSet<u64>,
    pub(super) knowledge: Knowledge,
    pub(super) acked: Vec<Acked>,
    /// The highest acknowledged seq over time.
    pub(super) acks: Vec<(u64, Known)>,
    pub(super) nonce_oks: HashMap<(u32, u32), (u64, u64)>,
    pub(super) join_attempts: HashMap<u32, u64>,
    pub(super) removal_attempts: HashMap<u32, u64>,
    pub(super) entries: HashMap<u32, Vec<Entered>>,
    pub(super) removals: HashMap<u32, Vec<Removal>>,
    /// The lowest removal of the lobby, to count what came after one.
    pub(super) first_removal: Option<u64>,
    /// The seqs that ended a user's membership, and everybody's.
    pub(super) ended: HashMap<u32, BTreeSet<u64>>,
    pub(super) closed: BTreeSet<u64>,
    /// The last seq at which a user joined.
    pub(super) last_joined: HashMap<u32, u64>,
    pub(super) positions: Vec<(u64, u64, u64)>,
    pub(super) capacities: Vec<(u64, u64)>,
    pub(super) rosters: Vec<(u64, u64)>,
    /// Readings that do not start right after the seq they were asked for.
    pub(super) late_starts: Vec<(u64, u64, u64)>,
    pub(super) last_read: Option<Final>,
}

impl Lobby {
    pub(super) fn new(name: u32) -> Lobby {
        Lobby { name, ..Lobby::default() }
    }

    /// Files a send under its nonce and under what it says; returns its number.
    pub(super) fn sent(&mut self, mut send: Send, nonce: Option<u32>) -> u32 {
        let number = u32::try_from(self.sends.len()).expect("sends are bounded by memory");
        let mine = self.sends_of.entry(send.connection).or_default();
        send.place = u32::try_from(mine.len()).expect("sends are bounded by memory");
        mine.push(number);
        let saying = (send.user, send.kind, send.body);
        match send.class {
            Class::Durable => send.group = Some(self.group(number, saying, nonce)),
            Class::Ordered => {
                let ordered = self.ordered_of.entry(send.connection).or_default();
                send.ordinal = u32::try_from(ordered.len()).expect("sends are bounded by memory");
                ordered.push(number);
                self.loose.entry(saying).or_default().push(number);
            }
            Class::Ephemeral => self.loose.entry(saying).or_default().push(number),
        }
        self.sends.push(send);
        number
    }

    fn group(&mut self, send: u32, saying: Saying, nonce: Option<u32>) -> u32 {
        let known = match nonce {
            Some(nonce) => self.by_nonce.get(&(saying.0, nonce)).copied(),
            None => self.by_saying.get(&saying).and_then(|groups| {
                groups.iter().copied().find(|group| !self.groups[*group as usize].has_nonce)
            }),
        };
        let group = known.unwrap_or_else(|| {
            let group = u32::try_from(self.groups.len()).expect("sends are bounded by memory");
            self.groups.push(Group { has_nonce: nonce.is_some(), attempts: Vec::new(), seqs: Vec::new() });
            if let Some(nonce) = nonce {
                self.by_nonce.insert((saying.0, nonce), group);
            }
            self.by_saying.entry(saying).or_default().push(group);
            group
        });
        self.groups[group as usize].attempts.push(send);
        group
    }

    /// The group of sends that an event with this nonce or saying belongs to.
    pub(super) fn group_of(&self, nonce: Option<u32>, saying: Saying, seq: u64) -> Option<u32> {
        if let Some(nonce) = nonce {
            return self.by_nonce.get(&(saying.0, nonce)).copied();
        }
        let groups = self.by_saying.get(&saying)?;
        let has =
            |group: &&u32, seq| self.groups[**group as usize].seqs.iter().any(|(known, _)| *known == seq);
        let own = groups.iter().find(|group| has(group, seq));
        let free = || groups.iter().find(|group| self.groups[**group as usize].seqs.is_empty());
        own.or_else(free).or(groups.last()).copied()
    }

    /// Takes what was seen under a seq.
    ///
    /// # Errors
    /// The line that saw something else there before.
    pub(super) fn observed(&mut self, seq: u64, slot: Slot) -> Result<(), u64> {
        let Slot { content, body, nonce, at, delivered, in_final, .. } = slot;
        let Some(known) = self.slots.get_mut(&seq) else {
            self.first_seen(seq, slot);
            return Ok(());
        };
        known.delivered |= delivered;
        let nonces_differ = matches!((known.nonce, nonce), (Some(a), Some(b)) if a != b);
        if known.content != content || nonces_differ {
            return Err(known.at.line);
        }
        known.in_final |= in_final;
        if known.body != body {
            self.odd_bodies.push((seq, body, at.line));
        }
        Ok(())
    }

    fn first_seen(&mut self, seq: u64, mut slot: Slot) {
        if let Some(from) = slot.content.from {
            let saying = (from, slot.content.kind.unwrap_or(0), slot.body);
            slot.group = self.group_of(slot.nonce, saying, seq);
        }
        if let Some(group) = slot.group {
            self.groups[group as usize].assign(seq, slot.at.line);
        }
        self.slots.insert(seq, slot);
    }

    /// Takes note of an event that ends memberships: one user's, or (`None`) everybody's.
    pub(super) fn ended_at(&mut self, user: Option<u32>, seq: u64) {
        let ends = match user {
            Some(user) => self.ended.entry(user).or_default(),
            None => &mut self.closed,
        };
        ends.insert(seq);
    }

    /// The first seq after this one that ended this user's membership.
    pub(super) fn end_after(&self, user: u32, seq: u64) -> Option<u64> {
        let first = |ends: &BTreeSet<u64>| ends.range(seq.saturating_add(1)..).next().copied();
        let own = self.ended.get(&user).and_then(first);
        own.into_iter().chain(first(&self.closed)).min()
    }

    pub(super) fn ok_with_seq(&mut self, seq: u64, at: At, send: Option<u32>) {
        self.knowledge.raise(at, seq);
        self.acked.push(Acked { seq, at, send });
        let top = self.acks.last().map_or(0, |(_, known)| known.seq);
        if seq > top {
            self.acks.push((at.t, Known { seq, line: at.line }));
        }
    }

    /// The highest seq acknowledged before this time.
    pub(super) fn acked_before(&self, t: u64) -> Known {
        let end = self.acks.partition_point(|(when, _)| *when < t);
        end.checked_sub(1).map_or(Known::default(), |last| self.acks[last].1)
    }

    /// True when the user has joined again since the removal, at this time. The position of a resume tells
    /// nothing about that: it counts where the events say (`joined`) that the user came back.
    pub(super) fn joined_again(&self, user: u32, removal: &Removal, t: u64, joined: bool) -> bool {
        let is_again = |entry: &Entered| if entry.resumed { joined } else { entry.seq >= removal.seq };
        self.entries
            .get(&user)
            .is_some_and(|entries| entries.iter().any(|e| e.t > removal.invoked.t && e.t <= t && is_again(e)))
    }
}
