//! The store of `--ephemeral` and of the simulation: the same answers as SQL gives, from maps. It never waits, so
//! it works under a paused clock.

mod service;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use mlms_protocol::encoding::Encoding;
use mlms_protocol::{Change, Epoch, LobbyEvent, LobbyId, Millis, Seq, Shard, UserId};

use crate::events::{PlayerPosition, Range, SaveReport};
use crate::report::{FiledReport, MessageReport};
use crate::row::{numbers, user_of};
use crate::statistics::{Award, GameEvent, Running, Statistics, Tally};
use crate::store::StoreError;

/// Bytes of events kept; beyond it the oldest are forgotten, which shortens histories.
const EVENT_BYTES_MAX: usize = 256 << 20;
/// Bytes of snapshots kept; beyond it further ones are refused, because a lobby's seq must never start again.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// Reports kept; beyond it further ones are forgotten at once.
const REPORTS_MAX: usize = 10_000;
/// What an entry costs beside its content.
const ENTRY_BYTES: usize = 256;

/// Everything behind one lock, which is held for map operations only.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Tables>);

#[derive(Debug, Default)]
struct Tables {
    lobbies: HashMap<LobbyId, BTreeMap<Seq, Arc<LobbyEvent>>>,
    /// Keys of `lobbies` in the order in which they came: what is forgotten first.
    arrival: VecDeque<(LobbyId, Seq)>,
    event_bytes: usize,
    snapshots: BTreeMap<LobbyId, Snapshot>,
    snapshot_bytes: usize,
    epochs: BTreeMap<Shard, Epoch>,
    published: BTreeMap<Shard, (u64, u64)>,
    /// Up to which event a lobby's games are counted, and the game that runs there.
    counted: HashMap<LobbyId, (Seq, BTreeMap<Running, i64>)>,
    statistics: HashMap<UserId, Statistics>,
    /// With the time, and whether it was announced.
    awards: BTreeMap<(UserId, String), (Millis, bool)>,
    /// By time and id.
    reports: BTreeMap<(Millis, String), FiledReport>,
    /// Who blocks whom since when.
    blocks: HashMap<UserId, Vec<(Millis, UserId)>>,
    service: service::Service,
}

#[derive(Debug)]
struct Snapshot {
    seq: Seq,
    epoch: Epoch,
    at: Millis,
    closed: bool,
    state: Vec<u8>,
}

fn byte_len(event: &LobbyEvent) -> usize {
    let content = match &event.change {
        Change::Message { body, .. } | Change::Edited { body, .. } => body.byte_len(),
        Change::GameFinished { results: Some(results), .. } => results.byte_len(),
        Change::Updated { .. } => event_json_len(event),
        _ => 0,
    };
    ENTRY_BYTES + content
}

fn event_json_len(event: &LobbyEvent) -> usize {
    let mut writer = mlms_protocol::writer::ObjectWriter::new(Encoding::Json);
    event.write(&mut writer);
    writer.finish().len()
}

fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Tables {
    fn save(&mut self, event: &Arc<LobbyEvent>, report: &mut SaveReport) {
        let lobby = self.lobbies.entry(event.lobby.clone()).or_default();
        match lobby.get_mut(&event.seq) {
            None => {
                lobby.insert(event.seq, Arc::clone(event));
                self.arrival.push_back((event.lobby.clone(), event.seq));
                self.event_bytes += byte_len(event);
                report.inserted += 1;
            }
            Some(known) if known.epoch == event.epoch => report.repeated += 1,
            Some(known) if known.epoch > event.epoch => report.kept_newer += 1,
            Some(known) => {
                self.event_bytes = self.event_bytes - byte_len(known) + byte_len(event);
                *known = Arc::clone(event);
                report.replaced += 1;
            }
        }
    }

    fn forget_down_to(&mut self, bytes_max: usize) {
        while self.event_bytes > bytes_max {
            let Some((id, seq)) = self.arrival.pop_front() else { return };
            let Some(lobby) = self.lobbies.get_mut(&id) else { continue };
            if let Some(event) = lobby.remove(&seq) {
                self.event_bytes -= byte_len(&event);
            }
            if lobby.is_empty() {
                self.lobbies.remove(&id);
            }
        }
    }
}

impl Memory {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().expect("nothing panics while it holds the tables")
    }

    pub(crate) fn save_events(&self, events: &[Arc<LobbyEvent>]) -> Result<SaveReport, StoreError> {
        if let Some((index, why)) = events.iter().enumerate().find_map(|(i, e)| Some((i, numbers(e).err()?)))
        {
            return Err(StoreError::Rejected { index, why });
        }
        let mut tables = self.tables();
        let mut report = SaveReport::default();
        for event in events {
            tables.save(event, &mut report);
        }
        tables.forget_down_to(EVENT_BYTES_MAX);
        Ok(report)
    }

    /// Keeps a message anew whose body was edited or blanked.
    pub(crate) fn replace_body(&self, event: LobbyEvent) {
        let mut tables = self.tables();
        let tables = &mut *tables;
        let known = tables.lobbies.get_mut(&event.lobby).and_then(|lobby| lobby.get_mut(&event.seq));
        if let Some(known) = known.filter(|known| known.epoch == event.epoch) {
            tables.event_bytes = tables.event_bytes - byte_len(known) + byte_len(&event);
            *known = Arc::new(event);
        }
    }

    pub(crate) fn history(&self, lobby: &LobbyId, range: Range, floor: Seq, limit: u32) -> Vec<LobbyEvent> {
        let tables = self.tables();
        let Some(events) = tables.lobbies.get(lobby) else { return Vec::new() };
        let copy = |(_, event): (&Seq, &Arc<LobbyEvent>)| LobbyEvent::clone(event);
        let last_before = |end: Seq| {
            let events = events.range(..end).rev().take_while(|(seq, _)| **seq > floor);
            let mut events: Vec<_> = events.take(count(limit)).map(copy).collect();
            events.reverse();
            events
        };
        match range {
            Range::After(seq) => {
                let behind = events.range(seq.max(floor)..).filter(|(s, _)| **s > seq.max(floor));
                behind.take(count(limit)).map(copy).collect()
            }
            Range::Before(seq) => last_before(seq),
            Range::Latest => last_before(Seq(u64::MAX)),
        }
    }

    pub(crate) fn player_events(
        &self,
        user: &UserId,
        before: Option<&PlayerPosition>,
        limit: u32,
    ) -> Vec<LobbyEvent> {
        let tables = self.tables();
        let key = |event: &LobbyEvent| (event.at, event.lobby.clone(), event.seq);
        let before = before.map(|position| (position.at, position.lobby.clone(), position.seq));
        let mut events: Vec<_> = tables
            .lobbies
            .values()
            .flat_map(BTreeMap::values)
            .filter(|event| user_of(&event.change) == Some(user))
            .filter(|event| before.as_ref().is_none_or(|before| key(event) < *before))
            .collect();
        events.sort_by_cached_key(|event| std::cmp::Reverse(key(event)));
        events.into_iter().take(count(limit)).map(|event| LobbyEvent::clone(event)).collect()
    }

    pub(crate) fn save_lobby(
        &self,
        lobby: &LobbyId,
        seq: Seq,
        epoch: Epoch,
        at: Millis,
        closed: bool,
        state: &[u8],
    ) -> Result<(), StoreError> {
        let mut tables = self.tables();
        let known = tables.snapshots.get(lobby);
        if known.is_some_and(|known| (known.seq, known.epoch) > (seq, epoch)) {
            return Ok(());
        }
        let freed = known.map_or(0, |known| ENTRY_BYTES + known.state.len());
        let bytes = tables.snapshot_bytes - freed + ENTRY_BYTES + state.len();
        if bytes > SNAPSHOT_BYTES_MAX {
            return Err(StoreError::Unavailable("its memory for snapshots is full".to_owned()));
        }
        tables.snapshot_bytes = bytes;
        let snapshot = Snapshot { seq, epoch, at, closed, state: state.to_vec() };
        tables.snapshots.insert(lobby.clone(), snapshot);
        Ok(())
    }

    pub(crate) fn load_lobby(&self, lobby: &LobbyId) -> Option<(Seq, Vec<u8>)> {
        self.tables().snapshots.get(lobby).map(|snapshot| (snapshot.seq, snapshot.state.clone()))
    }

    pub(crate) fn idle_lobbies(
        &self,
        after: Option<&(LobbyId, Millis)>,
        before: Millis,
        limit: u32,
    ) -> Vec<(LobbyId, Millis)> {
        let tables = self.tables();
        let open = tables.snapshots.iter().filter(|(_, snapshot)| !snapshot.closed && snapshot.at < before);
        let mut idle: Vec<_> = open.map(|(lobby, snapshot)| (snapshot.at, lobby)).collect();
        idle.retain(|(at, lobby)| after.is_none_or(|(id, time)| (*at, *lobby) > (*time, id)));
        idle.sort_unstable();
        idle.into_iter().take(count(limit)).map(|(at, lobby)| (lobby.clone(), at)).collect()
    }

    pub(crate) fn save_shard_epoch(&self, shard: Shard, epoch: Epoch) {
        let mut tables = self.tables();
        let known = tables.epochs.entry(shard).or_insert(epoch);
        *known = epoch.max(*known);
    }

    pub(crate) fn shard_epoch(&self, shard: Shard) -> Option<Epoch> {
        self.tables().epochs.get(&shard).copied()
    }

    pub(crate) fn load_shard_epochs(&self) -> Vec<(Shard, Epoch)> {
        self.tables().epochs.iter().map(|(shard, epoch)| (*shard, *epoch)).collect()
    }

    pub(crate) fn load_published(&self, shard: Shard) -> Option<(u64, u64)> {
        self.tables().published.get(&shard).copied()
    }

    pub(crate) fn save_published(&self, cursors: &[(Shard, u64, u64)]) {
        let mut tables = self.tables();
        tables.published.extend(cursors.iter().map(|(shard, epoch, n)| (*shard, (*epoch, *n))));
    }

    pub(crate) fn fold(&self, events: &[GameEvent]) -> u64 {
        let mut tables = self.tables();
        let tables = &mut *tables;
        let mut new = 0;
        for event in events {
            let (seq, running) = tables.counted.entry(event.lobby.clone()).or_default();
            if event.seq <= *seq {
                continue;
            }
            let mut fold = Tally { running: std::mem::take(running), ..Tally::default() };
            fold.take(&event.change);
            (*seq, *running) = (event.seq, fold.running);
            for ((user, stat), gained) in fold.gained {
                let statistics = tables.statistics.entry(user).or_default();
                statistics.entry(stat).or_default().add(gained);
            }
            new += 1;
        }
        new
    }

    pub(crate) fn statistics(&self, user: &UserId) -> Statistics {
        self.tables().statistics.get(user).cloned().unwrap_or_default()
    }

    pub(crate) fn file_report(&self, report: &MessageReport) {
        let filed = report.filed();
        let mut tables = self.tables();
        if tables.reports.len() < REPORTS_MAX && !tables.reports.keys().any(|(_, id)| *id == filed.id) {
            tables.reports.insert((filed.at, filed.id.clone()), filed);
        }
    }

    pub(crate) fn reports(&self, before: Option<(Millis, &str)>, limit: u32) -> Vec<FiledReport> {
        let tables = self.tables();
        let newest_first = tables.reports.iter().rev();
        let older =
            newest_first.filter(|((at, id), _)| before.is_none_or(|before| (*at, id.as_str()) < before));
        older.take(count(limit)).map(|(_, report)| report.clone()).collect()
    }

    pub(crate) fn block(&self, user: &UserId, blocked: &UserId, at: Millis) {
        let mut tables = self.tables();
        let list = tables.blocks.entry(user.clone()).or_default();
        if !list.iter().any(|(_, known)| known == blocked) {
            list.push((at, blocked.clone()));
            list.sort();
        }
    }

    pub(crate) fn unblock(&self, user: &UserId, blocked: &UserId) {
        let mut tables = self.tables();
        if let Some(list) = tables.blocks.get_mut(user) {
            list.retain(|(_, known)| known != blocked);
            if list.is_empty() {
                tables.blocks.remove(user);
            }
        }
    }

    pub(crate) fn blocked_by(&self, user: &UserId, limit: u32) -> Vec<UserId> {
        let tables = self.tables();
        let list = tables.blocks.get(user).into_iter().flatten();
        list.take(count(limit)).map(|(_, blocked)| blocked.clone()).collect()
    }

    pub(crate) fn blocked_by_each(&self, users: &[UserId]) -> Vec<(UserId, UserId)> {
        let tables = self.tables();
        let blocked = |user| tables.blocks.get(user).into_iter().flatten();
        users
            .iter()
            .flat_map(|user| blocked(user).map(|(_, blocked)| (user.clone(), blocked.clone())))
            .collect()
    }

    pub(crate) fn add_award(&self, award: &Award) -> bool {
        let key = (award.user.clone(), award.achievement.clone());
        let mut tables = self.tables();
        let is_new = !tables.awards.contains_key(&key);
        tables.awards.entry(key).or_insert((award.at, false));
        is_new
    }

    pub(crate) fn awards(&self, user: &UserId) -> Vec<Award> {
        let tables = self.tables();
        let from = (user.clone(), String::new());
        let own = tables.awards.range(from..).take_while(|((owner, _), _)| owner == user);
        own.map(|((user, achievement), (at, _))| award(user, achievement, *at)).collect()
    }

    pub(crate) fn unannounced(&self, limit: u32) -> Vec<Award> {
        let tables = self.tables();
        let left = tables.awards.iter().filter(|(_, (_, announced))| !announced).take(count(limit));
        left.map(|((user, achievement), (at, _))| award(user, achievement, *at)).collect()
    }

    pub(crate) fn announced(&self, awards: &[Award]) {
        let mut tables = self.tables();
        for award in awards {
            if let Some((_, announced)) =
                tables.awards.get_mut(&(award.user.clone(), award.achievement.clone()))
            {
                *announced = true;
            }
        }
    }
}

fn award(user: &UserId, achievement: &str, at: Millis) -> Award {
    Award { user: user.clone(), achievement: achievement.to_owned(), at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlms_protocol::{Body, Kind};

    #[test]
    fn beyond_its_bytes_the_oldest_events_are_forgotten() {
        let memory = Memory::default();
        let event = |seq: u64| {
            Arc::new(LobbyEvent {
                lobby: LobbyId::new("a").unwrap(),
                epoch: Epoch(1),
                seq: Seq(seq),
                at: Millis(seq),
                change: Change::Message {
                    kind: Kind::new("chat").unwrap(),
                    from: None,
                    body: Body::text(&"x".repeat(98)),
                    nonce: None,
                    key: None,
                },
            })
        };
        let events: Vec<_> = (1..=10).map(event).collect();
        memory.save_events(&events).unwrap();
        assert_eq!(memory.tables().event_bytes, 10 * (ENTRY_BYTES + 100));
        memory.tables().forget_down_to(3 * (ENTRY_BYTES + 100));
        let left = memory.history(&events[0].lobby, Range::Latest, Seq(0), 100);
        assert_eq!(left.iter().map(|e| e.seq.0).collect::<Vec<_>>(), [8, 9, 10]);
        memory.tables().forget_down_to(0);
        assert!(memory.tables().lobbies.is_empty());
    }
}
