//! One lobby under the checker's rules, with what they leave to the caller: which unsequenced messages were owed to
//! whom. Single-threaded: all members of a lobby live in one part.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use mlms_checker::Fault;
use mlms_checker::online::{LobbyRules, MemberRules};
use serde::{Deserialize, Serialize};

use super::agreement::{Agreement, Heard};
use super::game::Round;
use crate::plan::Micros;
use crate::rng::mix;

/// Sends of a stream whose order among the lobby's others is remembered.
const ORDINALS_MAX: usize = 1_024;

/// Losses of a part that are looked into; more are not judged apart.
const HOLES_MAX: usize = 100_000;

/// Changes of owner that are remembered, the first ones.
const CHANGES_MAX: usize = 10_000;

/// A change of owner, or of what a node can reach, explains what was sent so long before it was seen …
const EXPLAINS_BEFORE: Micros = 60_000_000;

/// … and so long after it.
const EXPLAINS_AFTER: Micros = 10_000_000;

/// Breaches that are told in full.
const TOLD_MAX: usize = 50;

/// Breaches by rule, the first ones in full.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Faults {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) first: Vec<String>,
}

impl Faults {
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(crate) fn add(&mut self, rule: &str, count: u64, text: impl FnOnce() -> String) {
        *self.counts.entry(rule.to_owned()).or_default() += count;
        if self.first.len() < TOLD_MAX {
            self.first.push(format!("{rule}: {}", text()));
        }
    }

    pub(crate) fn fault(&mut self, lobby: &str, who: &str, fault: &Fault) {
        self.add(fault.rule.name(), 1, || format!("lobby {lobby}, {who}: {}", fault.text));
    }

    pub(crate) fn merge(&mut self, other: &Faults) {
        for (rule, count) in &other.counts {
            *self.counts.entry(rule.clone()).or_default() += count;
        }
        self.first.extend(other.first.iter().cloned());
        self.first.truncate(TOLD_MAX);
    }
}

/// The unsequenced messages of one sender's stream.
#[derive(Default)]
struct Track {
    next: u64,
    /// The lobby's count and the time at each of the last sends.
    ordinals: VecDeque<(u64, Micros)>,
    last_ok: Option<u64>,
    /// Refused, or without an answer: nobody is owed them.
    not_ok: BTreeSet<u64>,
    /// The client who sends; it may owe itself nothing.
    sender: u32,
    to_others: bool,
}

impl Track {
    fn ordinal(&self, index: u64) -> Option<u64> {
        Some(self.last(index)?.0)
    }

    fn sent_at(&self, index: u64) -> Option<Micros> {
        Some(self.last(index)?.1)
    }

    fn last(&self, index: u64) -> Option<(u64, Micros)> {
        let first = self.next - self.ordinals.len() as u64;
        self.ordinals.get(usize::try_from(index.checked_sub(first)?).ok()?).copied()
    }

    fn owed(&self, from: u64, to: u64) -> u64 {
        (to - from) - self.not_ok.range(from..to).count() as u64
    }
}

/// What one session is held to.
#[derive(Default)]
pub(crate) struct Member {
    /// Kept across connections.
    pub(crate) chain: MemberRules,
    /// Of this connection: unsequenced messages have no memory.
    loose: MemberRules,
    /// The lobby's count of ordered sends when the member came in.
    entered_at: u64,
    /// Of this connection: ordered messages, for their order among all senders'.
    heard: Heard,
}

/// Ordered messages that were passed over.
struct Hole {
    key: u64,
    member: u32,
    from: u64,
    to: u64,
    /// When the first of them was sent, where that is remembered.
    sent_at: Option<Micros>,
}

pub(crate) struct Lobby {
    pub(crate) name: String,
    /// Places of its clients in the part.
    pub(crate) members: Vec<usize>,
    /// How many of them are in it now.
    pub(crate) present: u64,
    pub(crate) rules: LobbyRules,
    pub(crate) epoch: u64,
    /// When another owner was seen: ordered messages may have died with the one before.
    changes: Vec<Micros>,
    last_delivery: Option<Micros>,
    /// When the first message was due that nobody has heard of since the last delivery.
    owed_since: Option<Micros>,
    pub(crate) round: Round,
    /// Where a reading of the history was asked for at the end.
    pub(crate) audited_to: u64,
    ordinal: u64,
    tracks: HashMap<u64, Track>,
    holes: Vec<Hole>,
    agreement: Agreement,
    /// Ordered messages that a member got in another order than others: when, and who.
    disorders: Vec<(Micros, u32)>,
}

impl Lobby {
    pub(crate) fn new(name: String, window: usize) -> Lobby {
        Lobby {
            name,
            members: Vec::new(),
            present: 0,
            rules: LobbyRules::new(window),
            epoch: 0,
            changes: Vec::new(),
            last_delivery: None,
            owed_since: None,
            round: Round::default(),
            audited_to: 0,
            ordinal: 0,
            tracks: HashMap::new(),
            holes: Vec::new(),
            agreement: Agreement::default(),
            disorders: Vec::new(),
        }
    }

    /// An epoch was read anywhere.
    pub(crate) fn saw_epoch(&mut self, epoch: u64, now: Micros) {
        if self.epoch != 0 && epoch != self.epoch {
            self.agreement.begin_anew();
            if self.changes.len() < CHANGES_MAX {
                self.changes.push(now);
            }
        }
        self.epoch = self.epoch.max(epoch);
    }

    /// A message is due, whether or not it can be sent.
    pub(crate) fn owes(&mut self, due: Micros) {
        self.owed_since.get_or_insert(due);
    }

    /// A message came; gives since when the lobby had been silent though something was due.
    pub(crate) fn broke_silence(&mut self, now: Micros) -> Option<Micros> {
        let last = self.last_delivery.replace(now)?;
        Some(self.owed_since.take()?.max(last))
    }

    /// A silence that nothing ended.
    pub(crate) fn silent_since(&self) -> Option<Micros> {
        Some(self.owed_since?.max(self.last_delivery?))
    }

    /// Before an ordered message leaves.
    pub(crate) fn ordered_sent(&mut self, key: u64, sender: u32, index: u64, to_others: bool, now: Micros) {
        self.ordinal += 1;
        let track = self.tracks.entry(key).or_default();
        (track.sender, track.to_others) = (sender, to_others);
        track.next = index + 1;
        track.ordinals.push_back((self.ordinal, now));
        if track.ordinals.len() > ORDINALS_MAX {
            track.ordinals.pop_front();
        }
    }

    pub(crate) fn ordered_ok(&mut self, key: u64, index: u64) {
        if let Some(track) = self.tracks.get_mut(&key) {
            track.last_ok = track.last_ok.max(Some(index));
        }
    }

    /// It was refused, or its reply cannot come any more.
    pub(crate) fn ordered_not_ok(&mut self, key: u64, index: u64) {
        if let Some(track) = self.tracks.get_mut(&key) {
            track.not_ok.insert(index);
        }
    }

    /// A member came in on a new connection, or once more.
    pub(crate) fn entered(&self, member: &mut Member) {
        member.loose = MemberRules::default();
        // Only the chain's own state counts here: the loose rules hear no seqs.
        let _ = member.loose.entered(mlms_checker::Position { epoch: 0, seq: 0 });
        member.entered_at = self.ordinal;
        member.heard = Heard::default();
    }

    pub(crate) fn gone(&mut self, member: &mut Member, number: u32) {
        self.agreement.gone(number);
        member.chain.chain().detached();
        member.loose.chain().detached();
    }

    /// Takes an unsequenced message to a member. `is_ordered`: none may be passed over.
    pub(crate) fn heard(
        &mut self,
        member: &mut Member,
        number: u32,
        key: u64,
        index: u64,
        is_ordered: bool,
        now: Micros,
    ) -> Result<(), Fault> {
        let next = member.loose.heard(key);
        member.loose.unsequenced(key, index)?;
        if !is_ordered {
            return Ok(());
        }
        let is_for_all = self.tracks.get(&key).is_some_and(|track| !track.to_others);
        if is_for_all
            && !self.agreement.heard(number, &mut member.heard, mix(key ^ index.rotate_left(32)))
            && self.disorders.len() < HOLES_MAX
        {
            self.disorders.push((now, number));
        }
        let from = match next {
            Some(next) => next,
            None => self.tracks.get(&key).map_or(index, |track| first_owed(track, member.entered_at, index)),
        };
        if from < index && self.holes.len() < HOLES_MAX {
            let sent_at = self.tracks.get(&key).and_then(|track| track.sent_at(from));
            self.holes.push(Hole { key, member: number, from, to: index, sent_at });
        }
        Ok(())
    }

    /// Whether a change of owner, or a degraded node, explains what went wrong with a message; one of a time that is not
    /// remembered is explained by any.
    fn is_excused(&self, sent_at: Option<Micros>, degraded: &[(Micros, Micros)]) -> bool {
        let changes = self.changes.iter().map(|at| (*at, *at));
        changes.chain(degraded.iter().copied()).any(|(from, to)| {
            sent_at.is_none_or(|at| {
                from <= at.saturating_add(EXPLAINS_BEFORE) && at <= to.saturating_add(EXPLAINS_AFTER)
            })
        })
    }

    /// At the end: members who got ordered messages in another order than others, where no other owner explains it.
    pub(crate) fn disordered(&self, degraded: &[(Micros, Micros)]) -> impl Iterator<Item = u32> {
        self.disorders
            .iter()
            .filter(|(at, _)| !self.is_excused(Some(*at), degraded))
            .map(|(_, member)| *member)
    }

    /// At the end: tells of ordered messages that never came, and gives how many of them went with an owner. `live`:
    /// members that are connected, with their numbers. `degraded`: when nodes said that they could not reach others.
    pub(crate) fn lost(
        &self,
        live: &[(&Member, u32)],
        degraded: &[(Micros, Micros)],
        mut tell: impl FnMut(u32, u64, String),
    ) -> u64 {
        let mut excused = 0;
        let mut judge = |member: u32, track: &Track, from: u64, to: u64, sent_at: Option<Micros>| {
            let owed = if from < to { track.owed(from, to) } else { 0 };
            if owed == 0 {
            } else if self.is_excused(sent_at, degraded) {
                excused += owed;
            } else {
                tell(
                    member,
                    owed,
                    format!("messages {from} to {} of client {} never came", to - 1, track.sender),
                );
            }
        };
        for hole in &self.holes {
            if let Some(track) = self.tracks.get(&hole.key) {
                judge(hole.member, track, hole.from, hole.to, hole.sent_at);
            }
        }
        for (key, track) in &self.tracks {
            let Some(last) = track.last_ok else { continue };
            for (member, number) in live {
                if track.to_others && track.sender == *number {
                    continue;
                }
                let from = match member.loose.heard(*key) {
                    Some(next) => next,
                    None => first_owed(track, member.entered_at, last + 1),
                };
                judge(*number, track, from, last + 1, track.sent_at(from));
            }
        }
        excused
    }
}

/// The first message that was sent after the member had come in.
fn first_owed(track: &Track, entered_at: u64, before: u64) -> u64 {
    let mut first = before;
    while first > 0 && track.ordinal(first - 1).is_some_and(|ordinal| ordinal > entered_at) {
        first -= 1;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(lobby: &Lobby, member: &Member) -> (u64, u64) {
        let mut told = 0;
        let excused = lobby.lost(&[(member, 9)], &[], |_, count, _| told += count);
        (told, excused)
    }

    /// A lobby with a member, into which client 1 sent `count` ordered messages after it came in.
    fn talked(count: u64) -> (Lobby, Member) {
        let mut lobby = Lobby::new("l".to_owned(), 64);
        lobby.ordered_sent(7, 1, 0, false, 0);
        let mut member = Member::default();
        lobby.entered(&mut member);
        for index in 1..=count {
            lobby.ordered_sent(7, 1, index, false, index * 1_000_000);
            lobby.ordered_ok(7, index);
        }
        (lobby, member)
    }

    #[test]
    fn every_message_after_the_join_is_owed_the_first_and_the_last_too() {
        let (mut lobby, mut member) = talked(5);
        assert_eq!(losses(&lobby, &member), (5, 0));
        for index in [2, 4] {
            lobby.heard(&mut member, 9, 7, index, true, 0).unwrap();
        }
        assert_eq!(losses(&lobby, &member), (3, 0), "1, 3 and 5");
    }

    #[test]
    fn what_was_sent_before_the_join_is_not_owed() {
        let (mut lobby, mut member) = talked(2);
        for index in [0, 1, 2] {
            lobby.heard(&mut member, 9, 7, index, true, 0).unwrap();
        }
        assert_eq!(losses(&lobby, &member), (0, 0));
    }

    #[test]
    fn refused_messages_and_those_of_a_dead_owner_are_excused() {
        let (mut lobby, mut member) = talked(4);
        lobby.heard(&mut member, 9, 7, 1, true, 0).unwrap();
        lobby.heard(&mut member, 9, 7, 4, true, 0).unwrap();
        lobby.ordered_not_ok(7, 2);
        assert_eq!(losses(&lobby, &member), (1, 0));
        // The first that is missing was sent at two seconds.
        let late = 2_000_000 + EXPLAINS_BEFORE;
        lobby.saw_epoch(1, 1);
        lobby.saw_epoch(2, late + 1);
        assert_eq!(losses(&lobby, &member), (1, 0), "that change came too late to explain it");
        lobby.saw_epoch(3, late);
        assert_eq!(losses(&lobby, &member), (0, 1));
    }

    #[test]
    fn a_node_that_is_degraded_excuses_what_was_sent_meanwhile() {
        let (lobby, member) = talked(2);
        let told = |span| {
            let mut told = 0;
            lobby.lost(&[(&member, 9)], &[span], |_, count, _| told += count);
            told
        };
        // The first of the two was sent at one second.
        assert_eq!((told((0, Micros::MAX)), told((500_000, 700_000))), (0, 0));
        assert_eq!(told((2_000_000 + EXPLAINS_BEFORE, Micros::MAX)), 2);
    }

    #[test]
    fn a_lobby_is_silent_only_while_something_is_due() {
        let mut lobby = Lobby::new("l".to_owned(), 64);
        assert_eq!(lobby.broke_silence(1), None);
        assert_eq!(lobby.broke_silence(5_000), None, "nothing was due");
        lobby.owes(6_000);
        lobby.owes(7_000);
        assert_eq!(lobby.silent_since(), Some(6_000));
        assert_eq!(lobby.broke_silence(8_000), Some(6_000));
        assert_eq!(lobby.silent_since(), None);
    }

    #[test]
    fn order_and_duplicates_are_the_checkers() {
        let (mut lobby, mut member) = talked(3);
        lobby.heard(&mut member, 9, 7, 2, true, 0).unwrap();
        let (mut other, disordered) = (Member::default(), |lobby: &Lobby| lobby.disordered(&[]).count());
        lobby.entered(&mut other);
        lobby.ordered_sent(8, 2, 0, false, 0);
        lobby.heard(&mut other, 10, 8, 0, true, 0).unwrap();
        lobby.heard(&mut other, 10, 7, 2, true, 0).unwrap();
        assert_eq!(disordered(&lobby), 0);
        lobby.heard(&mut member, 9, 8, 0, true, 0).unwrap();
        lobby.heard(&mut other, 10, 7, 3, true, 0).unwrap();
        assert_eq!(disordered(&lobby), 1, "two senders' messages, in two orders");
        assert_eq!(lobby.heard(&mut member, 9, 7, 2, true, 0).unwrap_err().rule.name(), "duplicate");
        assert_eq!(lobby.heard(&mut member, 9, 7, 1, true, 0).unwrap_err().rule.name(), "sender_order");
        lobby.gone(&mut member, 9);
        assert_eq!(lobby.heard(&mut member, 9, 7, 3, true, 0).unwrap_err().rule.name(), "before_join");
    }
}
