//! One lobby under the checker's rules, with what they leave to the caller: which unsequenced messages were owed to
//! whom. Single-threaded: all members of a lobby live in one part.

use std::collections::{HashMap, HashSet};

use mlms_checker::Fault;
use mlms_checker::online::{LobbyRules, MemberRules};

use super::agreement::{Agreement, Heard};
use super::excuse::{Degraded, Owners};
use super::game::Round;
use super::track::{Piece, Track};
use crate::plan::Micros;
use crate::rng::mix;

/// Losses, and messages in another order, that are looked into at the end; more are not judged apart.
const LOSSES_MAX: usize = 100_000;

/// When there are more, those that are explained by now make room, but not more often than this.
const ROOM: Micros = 1_000_000;

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
    /// Of this connection: the latest place among all that a sender said.
    places: HashMap<u32, u64>,
}

impl Member {
    /// Takes a message by its place among all of its sender's. False: one that was said later was here before.
    pub(crate) fn spoken(&mut self, sender: u32, place: u64) -> bool {
        let latest = self.places.entry(sender).or_default();
        let is_in_order = place >= *latest;
        *latest = place.max(*latest);
        is_in_order
    }
}

/// An ordered message that was passed over: a later one of its sender came.
struct Loss {
    key: u64,
    member: u32,
    index: u64,
    /// When it was sent, where that is remembered.
    sent_at: Option<Micros>,
    /// When the later one came.
    seen_at: Micros,
}

impl Loss {
    fn is_followed_by(&self, next: &Loss) -> bool {
        (self.key, self.member, self.index + 1, self.seen_at)
            == (next.key, next.member, next.index, next.seen_at)
    }
}

pub(crate) struct Lobby {
    pub(crate) name: String,
    /// Places of its clients in the part.
    pub(crate) members: Vec<usize>,
    /// How many of them are in it now.
    pub(crate) present: u64,
    pub(crate) rules: LobbyRules,
    owners: Owners,
    last_delivery: Option<Micros>,
    /// When the first message was due that nobody has heard of since the last delivery.
    owed_since: Option<Micros>,
    pub(crate) round: Round,
    /// Where a reading of the history was asked for at the end.
    pub(crate) audited_to: u64,
    ordinal: u64,
    tracks: HashMap<u64, Track>,
    losses: Vec<Loss>,
    /// When room was made among them.
    roomy_at: Micros,
    /// Losses that are explained, and have made room.
    excused: u64,
    agreement: Agreement,
    /// Members who do not hear all that they send: their order counts only where there are no others.
    deaf: HashSet<u32>,
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
            owners: Owners::default(),
            last_delivery: None,
            owed_since: None,
            round: Round::default(),
            audited_to: 0,
            ordinal: 0,
            tracks: HashMap::new(),
            losses: Vec::new(),
            roomy_at: 0,
            excused: 0,
            agreement: Agreement::default(),
            deaf: HashSet::new(),
            disorders: Vec::new(),
        }
    }

    /// An epoch was read anywhere.
    pub(crate) fn saw_epoch(&mut self, epoch: u64, now: Micros) {
        if self.owners.saw(epoch, now) {
            self.agreement.begin_anew();
        }
    }

    /// A durable message of that epoch was sent at that time.
    pub(crate) fn owned(&mut self, epoch: u64, sent_at: Micros) {
        self.owners.owned(epoch, sent_at);
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
        track.sent(index, self.ordinal, now);
        if to_others && self.deaf.insert(sender) && self.agreement.reader() == Some(sender) {
            self.agreement.begin_anew();
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
        member.places = HashMap::new();
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
        // Whose order counts does not get what it sends to the others.
        let is_compared = self
            .tracks
            .get(&key)
            .is_some_and(|track| !track.to_others || self.agreement.reader() != Some(track.sender));
        if is_compared
            && !self.agreement.heard(
                number,
                &mut member.heard,
                mix(key ^ index.rotate_left(32)),
                !self.deaf.contains(&number) || self.deaf.len() >= self.members.len(),
            )
            && self.disorders.len() < LOSSES_MAX
        {
            self.disorders.push((now, number));
        }
        let from = match next {
            Some(next) => next,
            None => self.tracks.get(&key).map_or(index, |track| track.first_owed(member.entered_at, index)),
        };
        for lost in from..index {
            if self.losses.len() >= LOSSES_MAX && !self.make_room(now) {
                break;
            }
            let sent_at = self.tracks.get(&key).and_then(|track| track.sent_at(lost));
            self.losses.push(Loss { key, member: number, index: lost, sent_at, seen_at: now });
        }
        Ok(())
    }

    /// Losses that are explained already are only counted.
    fn make_room(&mut self, now: Micros) -> bool {
        if now < self.roomy_at + ROOM {
            return false;
        }
        self.roomy_at = now;
        let (owners, tracks, excused) = (&self.owners, &self.tracks, &mut self.excused);
        self.losses.retain(|loss| {
            let is_explained = owners.explains(loss.sent_at, loss.seen_at);
            let owed = tracks.get(&loss.key).map_or(0, |track| track.owed(loss.index, loss.index + 1));
            *excused += if is_explained { owed } else { 0 };
            !is_explained
        });
        self.losses.len() < LOSSES_MAX
    }

    /// At the end: members who got ordered messages in another order than others, where no other owner explains it.
    pub(crate) fn disordered(&self, degraded: &Degraded) -> impl Iterator<Item = u32> {
        let is_breach = |at: Micros| !self.owners.explains(Some(at), at) && !degraded.explains(Some(at), at);
        self.disorders.iter().filter(move |(at, _)| is_breach(*at)).map(|(_, member)| *member)
    }

    /// At the end: tells of ordered messages that never came, and gives how many of them went with an owner. `live`:
    /// members that are connected, with their numbers.
    pub(crate) fn lost(
        &self,
        live: &[(&Member, u32)],
        degraded: &Degraded,
        now: Micros,
        mut tell: impl FnMut(u32, u64, String),
    ) -> u64 {
        let mut excused = self.excused;
        let mut judge =
            |member: u32, track: &Track, pieces: &mut dyn Iterator<Item = Piece>, seen_at: Micros| {
                let (mut from, mut to, mut count) = (0, 0, 0);
                for piece in pieces {
                    let owed = track.owed(piece.from, piece.to);
                    let (sent_at, is_first) = (piece.sent_at, count == 0);
                    if self.owners.explains(sent_at, seen_at) || degraded.explains(sent_at, seen_at) {
                        excused += owed;
                    } else if owed > 0 {
                        (from, to, count) =
                            (if is_first { piece.from } else { from }, piece.to, count + owed);
                    }
                }
                if count > 0 {
                    let text = format!("messages {from} to {} of client {} never came", to - 1, track.sender);
                    tell(member, count, text);
                }
            };
        for losses in self.losses.chunk_by(Loss::is_followed_by) {
            let (Some(first), pieces) = (losses.first(), losses.iter().map(Piece::of)) else { continue };
            if let Some(track) = self.tracks.get(&first.key) {
                judge(first.member, track, &mut { pieces }, first.seen_at);
            }
        }
        for (key, track) in &self.tracks {
            for (member, number) in live {
                if let Some((from, to)) = track.tail(*key, member, *number) {
                    judge(*number, track, &mut track.pieces(from, to), now);
                }
            }
        }
        excused
    }

    /// Whether something that was acknowledged may still come to a member, and nothing excuses that it has not.
    pub(crate) fn owes_ordered(&self, live: &[(&Member, u32)], degraded: &Degraded, now: Micros) -> bool {
        let is_owed = |track: &Track, piece: &Piece| {
            let is_excused =
                self.owners.explains(piece.sent_at, now) || degraded.explains(piece.sent_at, now);
            !is_excused && track.owed(piece.from, piece.to) > 0
        };
        self.tracks.iter().any(|(key, track)| {
            let tails = live.iter().filter_map(|(member, number)| track.tail(*key, member, *number));
            tails.into_iter().any(|(from, to)| track.pieces(from, to).any(|piece| is_owed(track, &piece)))
        })
    }
}

impl Track {
    /// The acknowledged messages behind the last one that a member has heard.
    fn tail(&self, key: u64, member: &Member, number: u32) -> Option<(u64, u64)> {
        let end = self.last_ok? + 1;
        if self.to_others && self.sender == number {
            return None;
        }
        let from = member.loose.heard(key).unwrap_or_else(|| self.first_owed(member.entered_at, end));
        (from < end).then_some((from, end))
    }
}

impl Piece {
    fn of(loss: &Loss) -> Piece {
        Piece { from: loss.index, to: loss.index + 1, sent_at: loss.sent_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(lobby: &Lobby, member: &Member) -> (u64, u64) {
        let mut told = 0;
        let end = 1_000_000_000;
        let excused = lobby.lost(&[(member, 9)], &Degraded::default(), end, |_, count, _| told += count);
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
        let (mut lobby, mut member) = talked(9);
        lobby.saw_epoch(1, 1);
        lobby.heard(&mut member, 9, 7, 1, true, 1_000_000).unwrap();
        lobby.heard(&mut member, 9, 7, 9, true, 9_100_000).unwrap();
        lobby.ordered_not_ok(7, 3);
        assert_eq!(losses(&lobby, &member), (6, 0), "2 and 4 to 8");
        // Its owner lived when 9 was sent, and so had 2 to 8 too.
        lobby.owned(1, 9_200_000);
        lobby.saw_epoch(2, 9_300_000);
        assert_eq!(losses(&lobby, &member), (6, 0));
    }

    #[test]
    fn messages_that_a_new_owner_had_are_owed_beside_those_of_the_dead_one() {
        let (mut lobby, mut member) = talked(20);
        lobby.saw_epoch(1, 1);
        lobby.heard(&mut member, 9, 7, 1, true, 1_000_000).unwrap();
        lobby.owned(1, 1_500_000);
        lobby.saw_epoch(2, 6_000_000);
        lobby.heard(&mut member, 9, 7, 20, true, 20_100_000).unwrap();
        // Sent until five seconds behind the first sign of the new one: 2 to 11. The others had an owner that lives.
        assert_eq!(losses(&lobby, &member), (8, 10));
    }

    #[test]
    fn losses_that_are_explained_make_room_for_others() {
        let (mut lobby, mut member) = talked(2);
        lobby.saw_epoch(1, 1);
        lobby.saw_epoch(2, 1_500_000);
        let loss = |index| Loss { key: 7, member: 9, index, sent_at: Some(1_000_000), seen_at: 2_000_000 };
        lobby.losses = (0..LOSSES_MAX as u64).map(loss).collect();
        for index in 3..=22 {
            lobby.ordered_sent(7, 1, index, false, 30_000_000);
        }
        for index in [20, 22] {
            lobby.heard(&mut member, 9, 7, index, true, 30_000_000).unwrap();
        }
        assert!(lobby.losses.len() < 100, "{} losses wait", lobby.losses.len());
        assert_eq!(lobby.excused, LOSSES_MAX as u64);
    }

    #[test]
    fn a_node_that_is_degraded_excuses_what_was_sent_meanwhile() {
        let (lobby, member) = talked(2);
        let told = |from, to| {
            let (mut told, mut degraded) = (0, Degraded::default());
            degraded.begin(from);
            degraded.end(to);
            lobby.lost(&[(&member, 9)], &degraded, 9_000_000, |_, count, _| told += count);
            told
        };
        // They were sent at one and at two seconds, and were still missing at nine.
        assert_eq!((told(0, 8_000_000), told(8_000_000, 8_000_001)), (0, 0));
        assert_eq!((told(9_000_000, 9_000_001), told(9_000_001, Micros::MAX)), (0, 2));
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
    fn what_may_still_come_is_waited_for() {
        let (mut lobby, mut member) = talked(3);
        let owes = |lobby: &Lobby, member: &Member, degraded: &Degraded| {
            lobby.owes_ordered(&[(member, 9)], degraded, 9_000_000)
        };
        let healthy = Degraded::default();
        assert!(owes(&lobby, &member, &healthy));
        let mut degraded = Degraded::default();
        degraded.begin(0);
        assert!(!owes(&lobby, &member, &degraded));
        lobby.heard(&mut member, 9, 7, 2, true, 0).unwrap();
        assert!(owes(&lobby, &member, &healthy), "the third one");
        lobby.ordered_not_ok(7, 3);
        assert!(!owes(&lobby, &member, &healthy));
        lobby.ordered_sent(7, 1, 4, false, 8_000_000);
        assert!(!owes(&lobby, &member, &healthy), "nobody said that it would come");
    }

    #[test]
    fn messages_to_the_others_have_one_order_too() {
        let mut lobby = Lobby::new("l".to_owned(), 64);
        lobby.members = vec![0, 1, 2, 3];
        let mut members: [Member; 4] = Default::default();
        members.iter_mut().for_each(|member| lobby.entered(member));
        let mut hear = |lobby: &mut Lobby, who: usize, key: u64, index: u64| {
            lobby.heard(&mut members[who], who as u32, key, index, true, 0).unwrap();
        };
        // The first two send; one of them is the first to hear anything.
        lobby.ordered_sent(10, 0, 0, true, 0);
        hear(&mut lobby, 1, 10, 0);
        for index in 0..2 {
            lobby.ordered_sent(11, 1, index, true, 0);
            lobby.ordered_sent(10, 0, index + 1, true, 0);
            [0, 2, 3].into_iter().for_each(|who| hear(&mut lobby, who, 11, index));
            [1, 2, 3].into_iter().for_each(|who| hear(&mut lobby, who, 10, index + 1));
        }
        let disordered = |lobby: &Lobby| lobby.disordered(&Degraded::default()).count();
        assert_eq!(disordered(&lobby), 0);
        lobby.ordered_sent(11, 1, 2, true, 0);
        lobby.ordered_sent(10, 0, 3, true, 0);
        for (who, key, index) in [(2, 11, 2), (2, 10, 3), (3, 10, 3), (3, 11, 2)] {
            hear(&mut lobby, who, key, index);
        }
        assert_eq!(disordered(&lobby), 1);
    }

    #[test]
    fn a_sender_is_heard_in_the_order_in_which_it_spoke() {
        let mut member = Member::default();
        assert!([(1, 1), (1, 2), (2, 1), (1, 2), (1, 5)].into_iter().all(|(of, at)| member.spoken(of, at)));
        assert!(!member.spoken(1, 4));
        assert!(member.spoken(1, 5) && member.spoken(2, 2));
        Lobby::new("l".to_owned(), 64).entered(&mut member);
        assert!(member.spoken(1, 1));
    }

    #[test]
    fn order_and_duplicates_are_the_checkers() {
        let (mut lobby, mut member) = talked(3);
        lobby.heard(&mut member, 9, 7, 2, true, 0).unwrap();
        let (mut other, disordered) =
            (Member::default(), |lobby: &Lobby| lobby.disordered(&Degraded::default()).count());
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
