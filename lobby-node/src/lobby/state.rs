//! The state of one lobby, changed by nothing but its events.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use mlms_protocol::command::Position;
use mlms_protocol::event::{LobbyState, ReadMark, STATE_MEMBERS_MAX, STATE_MESSAGES_MAX};
use mlms_protocol::lobby::{HostPolicy, Member, Settings};
use mlms_protocol::{Body, Change, Epoch, Limits, LobbyEvent, LobbyId, MemberRole, Millis, Seq, UserId};
use serde::{Deserialize, Serialize};

use super::dedupe::{CommandKey, Dedupe, Outcome, Recorded};
use super::entrance::Entrance;
use super::marks::Marks;
use super::messages::Voices;
use super::moderation::Restrictions;
use super::recent::Recent;
use super::retained::Retained;

/// Format of entries and snapshots that this release writes. Format 1 knew neither games nor bans; it is read, too.
const VERSION: u8 = 2;
const OLDEST_VERSION: u8 = 1;

/// One command's effect, the unit of the journal: all of its events, or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// At least one.
    pub events: Vec<LobbyEvent>,
    pub key: Option<(UserId, CommandKey)>,
    pub recorded: Recorded,
    /// Read marks that were set since the lobby's last entry. The release before passes them over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<(UserId, Seq)>,
}

/// Bytes in the journal that this release cannot read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("unreadable {what}: {why}")]
pub(crate) struct Unreadable {
    what: &'static str,
    why: String,
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    rmp_serde::encode::write_named(&mut bytes, value).expect("plain values written to memory cannot fail");
    bytes
}

fn decode<T: serde::de::DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Unreadable> {
    match bytes.split_first() {
        Some((&(OLDEST_VERSION..=VERSION), rest)) => {
            rmp_serde::from_slice(rest).map_err(|why| Unreadable { what, why: why.to_string() })
        }
        Some((version, _)) => Err(Unreadable { what, why: format!("format {version}") }),
        None => Err(Unreadable { what, why: "no bytes".to_owned() }),
    }
}

impl Entry {
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Entry, Unreadable> {
        decode("journal entry", bytes)
    }
}

/// A lobby: who is in it, how it is set, where its events stand.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) lobby: LobbyId,
    pub(crate) settings: Settings,
    pub(crate) host: Option<UserId>,
    /// By order of joining.
    members: BTreeMap<u64, Member>,
    order: HashMap<UserId, u64>,
    next_order: u64,
    /// The newest event's seq, epoch and time.
    pub(crate) seq: Seq,
    pub(crate) epoch: Epoch,
    pub(crate) at: Millis,
    /// It was created and has not been closed since.
    pub(crate) open: bool,
    /// History and resume do not reach behind this: the `closed` event of an earlier lobby of the same id.
    pub(crate) floor: Seq,
    /// The game under way.
    pub(super) game: Option<u64>,
    /// Games of this lobby id so far; the next one gets the next number.
    pub(super) games: u64,
    pub(super) restrictions: Restrictions,
    pub(super) entrance: Entrance,
    pub(super) voices: Voices,
    pub(super) retained: Retained,
    pub(super) marks: Marks,
    messages: VecDeque<Arc<LobbyEvent>>,
    pub(super) recent: Recent,
    pub(super) dedupe: Dedupe,
}

/// A state at rest. The recent events are not part of it: they stand in the journal.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    lobby: LobbyId,
    settings: Settings,
    host: Option<UserId>,
    /// With the place in the order of joining, by which a roster is paged.
    members: Vec<(u64, Member)>,
    /// The place of the next one to join: those of members who have left are not given again.
    #[serde(default)]
    next_order: u64,
    seq: Seq,
    epoch: Epoch,
    at: Millis,
    open: bool,
    floor: Seq,
    #[serde(default)]
    game: Option<u64>,
    #[serde(default)]
    games: u64,
    #[serde(default)]
    restrictions: Restrictions,
    #[serde(default)]
    entrance: Entrance,
    #[serde(default)]
    voices: Voices,
    #[serde(default)]
    retained: Retained,
    #[serde(default)]
    marks: Marks,
    messages: Vec<Arc<LobbyEvent>>,
    outcomes: Vec<(UserId, CommandKey, Outcome)>,
}

impl State {
    /// A lobby that nobody has created yet.
    pub(crate) fn new(lobby: LobbyId) -> Self {
        State {
            lobby,
            settings: Settings::default(),
            host: None,
            members: BTreeMap::new(),
            order: HashMap::new(),
            next_order: 0,
            seq: Seq(0),
            epoch: Epoch(0),
            at: Millis(0),
            open: false,
            floor: Seq(0),
            game: None,
            games: 0,
            restrictions: Restrictions::default(),
            entrance: Entrance::default(),
            voices: Voices::default(),
            retained: Retained::default(),
            marks: Marks::default(),
            messages: VecDeque::new(),
            recent: Recent::default(),
            dedupe: Dedupe::default(),
        }
    }

    pub(crate) fn member(&self, user: &UserId) -> Option<&Member> {
        self.order.get(user).and_then(|order| self.members.get(order))
    }

    pub(crate) fn members_total(&self) -> usize {
        self.members.len()
    }

    /// Members in the order of joining, from behind a place.
    pub(crate) fn members_after(&self, place: Option<u64>) -> impl Iterator<Item = (u64, &Member)> {
        let from = place.map_or(0, |place| place.saturating_add(1));
        self.members.range(from..).map(|(place, member)| (*place, member))
    }

    /// Who becomes host when the present one goes.
    pub(crate) fn next_host(&self, leaving: &UserId) -> Option<&UserId> {
        match self.settings.host_policy {
            HostPolicy::Oldest => {}
            HostPolicy::Listed => {
                let here = |user: &&UserId| *user != leaving && self.member(user).is_some();
                return self.settings.hosts.iter().find(here);
            }
            HostPolicy::Manual => return None,
        }
        let stays = |member: &&Member| member.user != *leaving;
        let player = self.members.values().filter(stays).find(|member| member.role != MemberRole::Spectator);
        player.or_else(|| self.members.values().find(stays)).map(|member| &member.user)
    }

    /// The outcome of the same command, if it was carried out before.
    pub(crate) fn outcome(&self, user: &UserId, key: &CommandKey, now: Millis) -> Option<Outcome> {
        self.dedupe.get(user, key, now)
    }

    /// Whether another command of the user was carried out with the same `Idempotency-Key`.
    pub(crate) fn is_reused(&self, user: &UserId, key: &CommandKey, now: Millis) -> bool {
        self.dedupe.is_reused(user, key, now)
    }

    /// Takes an entry, and gives its events as they are now shared. Events that the state has already are passed
    /// over, so that a snapshot and a log that overlap fit together.
    pub(crate) fn apply_entry(&mut self, entry: Entry) -> Vec<Arc<LobbyEvent>> {
        let Entry { events, key, recorded, reads } = entry;
        let mut applied = Vec::with_capacity(events.len());
        for event in events {
            let event = Arc::new(event);
            if event.seq <= self.seq {
                self.recent.push(Arc::clone(&event));
                if let Some((of, body)) = event.alters() {
                    self.recent.alter(of, body);
                }
                continue;
            }
            self.apply(&event);
            applied.push(event);
        }
        for (user, seq) in reads {
            self.marks.raise(&user, seq);
        }
        if let (Some((user, key)), Some(last)) = (key, applied.last()) {
            let outcome = Outcome { recorded, epoch: last.epoch, seq: last.seq, at: last.at };
            self.dedupe.insert(user, key, outcome);
        }
        applied
    }

    /// Goes on behind events that nobody has any more.
    pub(crate) fn pass_over(&mut self, seq: Seq) {
        self.seq = self.seq.max(seq);
    }

    fn apply(&mut self, event: &Arc<LobbyEvent>) {
        debug_assert_eq!(event.seq, self.seq.next(), "events are gapless");
        (self.seq, self.epoch, self.at) = (event.seq, event.epoch, event.at);
        self.recent.push(Arc::clone(event));
        self.restrictions.apply(event);
        self.entrance.apply(event);
        self.voices.apply(event, self.settings.slow_mode_s);
        self.retained.apply(event);
        self.marks.apply(event);
        match &event.change {
            Change::Message { key: Some(_), .. } => {}
            Change::Message { .. } => {
                self.messages.push_back(Arc::clone(event));
                if self.messages.len() > STATE_MESSAGES_MAX {
                    self.messages.pop_front();
                }
            }
            Change::Joined { user, name, role } => {
                let member = Member {
                    user: user.clone(),
                    name: name.clone(),
                    role: *role,
                    away: false,
                    ready: false,
                    attributes: serde_json::Map::new(),
                };
                self.insert(member);
                let order = &self.order;
                self.marks.tidy_beyond(order.len(), |user| order.contains_key(user));
                if *role == MemberRole::Host {
                    self.host = Some(user.clone());
                }
            }
            Change::Left { user, .. } | Change::Kicked { user, .. } | Change::Banned { user, .. } => {
                self.remove(user)
            }
            Change::HostChanged { user, .. } => self.set_host(user.as_ref()),
            Change::Updated { settings, user, role, attributes, .. } => {
                if let Some(settings) = settings {
                    if !self.open {
                        (self.open, self.floor) = (true, Seq(event.seq.0 - 1));
                    }
                    self.settings = Settings::clone(settings);
                }
                if let Some(member) = user.as_ref().and_then(|user| self.member_mut(user)) {
                    member.role = role.unwrap_or(member.role);
                    if let Some(attributes) = attributes {
                        member.attributes.clone_from(attributes);
                    }
                }
            }
            Change::Ready { user, ready } => {
                if let Some(member) = self.member_mut(user) {
                    member.ready = *ready;
                }
            }
            Change::Closed { .. } => {
                self.open = false;
                self.host = None;
                self.members.clear();
                self.order.clear();
                self.messages.clear();
                self.game = None;
            }
            Change::GameStarted { game, .. } => {
                self.game = Some(*game);
                self.games = self.games.max(*game);
            }
            Change::GameFinished { .. } => {
                self.game = None;
                // Whoever plays again says so again.
                self.members.values_mut().for_each(|member| member.ready = false);
            }
            Change::Reported { .. }
            | Change::Unbanned { .. }
            | Change::Muted { .. }
            | Change::Unmuted { .. }
            | Change::Invited { .. }
            | Change::InviteUsed { .. }
            | Change::Reacted { .. } => {}
            Change::Locked { hash, .. } => self.settings.locked = hash.is_some(),
            Change::Edited { of, body, .. } => self.alter(*of, Some(body)),
            Change::Deleted { of, .. } => self.alter(*of, None),
        }
    }

    fn alter(&mut self, of: Seq, body: Option<&Body>) {
        self.recent.alter(of, body);
        if let Some(message) = self.messages.iter_mut().find(|message| message.seq == of)
            && let Some(altered) = message.with_body(body)
        {
            *message = Arc::new(altered);
        }
    }

    /// Changes the newest messages in their places.
    pub(super) fn rewrite_messages(&mut self, change: impl FnMut(&mut Arc<LobbyEvent>)) {
        self.messages.iter_mut().for_each(change);
    }

    /// The newest messages, ascending.
    pub(super) fn messages(&self) -> &VecDeque<Arc<LobbyEvent>> {
        &self.messages
    }

    /// An event in memory.
    pub(super) fn event(&self, seq: Seq) -> Option<&Arc<LobbyEvent>> {
        let shown = || self.messages.iter().find(|message| message.seq == seq);
        self.recent.get(seq).or_else(shown).or_else(|| self.retained.get(seq))
    }

    /// How far a user has read.
    pub(crate) fn mark_of(&self, user: &UserId) -> ReadMark {
        self.marks.of(user)
    }

    /// Sets a user's mark, not beyond the newest event. `None`: it stands there or further already.
    pub(crate) fn mark_read(&mut self, user: &UserId, seq: Seq) -> Option<Seq> {
        let seq = seq.min(self.seq);
        self.marks.raise(user, seq).then_some(seq)
    }

    /// What events in memory did to messages, in their order.
    pub(crate) fn alterations(&self) -> Vec<(Seq, Option<Body>)> {
        let events = self.recent.after(self.recent_floor()).into_iter().flatten();
        let alters = events.filter_map(|event| event.alters());
        alters.map(|(of, body)| (of, body.cloned())).collect()
    }

    fn insert(&mut self, member: Member) {
        self.remove(&member.user.clone());
        self.order.insert(member.user.clone(), self.next_order);
        self.members.insert(self.next_order, member);
        self.next_order += 1;
    }

    fn remove(&mut self, user: &UserId) {
        if let Some(order) = self.order.remove(user) {
            self.members.remove(&order);
        }
        if self.host.as_ref() == Some(user) {
            self.host = None;
        }
    }

    fn member_mut(&mut self, user: &UserId) -> Option<&mut Member> {
        self.order.get(user).and_then(|order| self.members.get_mut(order))
    }

    fn set_host(&mut self, user: Option<&UserId>) {
        if let Some(former) = self.host.take()
            && let Some(member) = self.member_mut(&former)
        {
            member.role = MemberRole::Player;
        }
        self.host = user.cloned();
        if let Some(member) = user.and_then(|user| self.member_mut(user)) {
            member.role = MemberRole::Host;
        }
    }

    /// Forgets events that are out of the resume window and in the database.
    pub(crate) fn trim_recent(&mut self, limits: &Limits, saved: Seq, now: Millis) {
        self.recent.trim(limits, saved, now);
    }

    /// See [`Recent::after`].
    pub(crate) fn events_after(&self, seq: Seq) -> Option<impl Iterator<Item = &Arc<LobbyEvent>>> {
        self.recent.after(seq)
    }

    /// The seq before the oldest event in memory; the head when there is none.
    pub(crate) fn recent_floor(&self) -> Seq {
        self.recent.floor().unwrap_or(self.seq)
    }

    /// How many events a client at this position has missed, if it can go on from there.
    pub(crate) fn missed_since(&self, position: Position, owner: Epoch, limits: &Limits) -> Option<u64> {
        if position.seq < self.floor || position.seq == Seq(0) {
            return None;
        }
        let missed = self.recent.missed_since(position, self.seq, self.epoch, owner)?;
        (missed <= limits.resume_events_max as u64).then_some(missed)
    }

    /// The lobby as `user` first sees it. `is_away` tells whose connections are all lost.
    pub(crate) fn view(&self, user: &UserId, is_away: impl Fn(&UserId) -> bool) -> LobbyState {
        let seen = |member: &Member| Member { away: is_away(&member.user), ..member.clone() };
        let own = self.member(user).map(seen);
        let others =
            self.members.values().filter(|member| member.user != *user).take(STATE_MEMBERS_MAX).map(seen);
        LobbyState {
            settings: self.settings.clone(),
            host: self.host.clone(),
            members: own.into_iter().chain(others).collect(),
            members_total: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
            game: self.game,
            messages: self.messages.iter().map(|message| LobbyEvent::clone(message)).collect(),
            retained: self.retained.ascending(),
        }
    }

    pub(crate) fn snapshot(&self) -> Vec<u8> {
        encode(&Snapshot {
            lobby: self.lobby.clone(),
            settings: self.settings.clone(),
            host: self.host.clone(),
            members: self.members.iter().map(|(place, member)| (*place, member.clone())).collect(),
            next_order: self.next_order,
            seq: self.seq,
            epoch: self.epoch,
            at: self.at,
            open: self.open,
            floor: self.floor,
            game: self.game,
            games: self.games,
            restrictions: self.restrictions.clone(),
            entrance: self.entrance.clone(),
            voices: self.voices.clone(),
            retained: self.retained.clone(),
            marks: self.marks.clone(),
            messages: self.messages.iter().cloned().collect(),
            outcomes: self
                .dedupe
                .iter()
                .map(|(user, key, outcome)| (user.clone(), key.clone(), *outcome))
                .collect(),
        })
    }

    pub(crate) fn from_snapshot(bytes: &[u8]) -> Result<State, Unreadable> {
        let snapshot: Snapshot = decode("lobby snapshot", bytes)?;
        let mut state = State::new(snapshot.lobby);
        state.settings = snapshot.settings;
        for (place, member) in snapshot.members {
            state.next_order = place;
            state.insert(member);
        }
        state.next_order = state.next_order.max(snapshot.next_order);
        state.host = snapshot.host;
        (state.seq, state.epoch, state.at) = (snapshot.seq, snapshot.epoch, snapshot.at);
        (state.open, state.floor) = (snapshot.open, snapshot.floor);
        (state.game, state.games) = (snapshot.game, snapshot.games);
        state.restrictions = snapshot.restrictions;
        (state.entrance, state.voices) = (snapshot.entrance, snapshot.voices);
        (state.retained, state.marks) = (snapshot.retained, snapshot.marks);
        state.messages = snapshot.messages.into();
        for (user, key, outcome) in snapshot.outcomes {
            state.dedupe.insert(user, key, outcome);
        }
        Ok(state)
    }
}
