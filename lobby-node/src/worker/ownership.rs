//! Which shards this worker owns: claiming, finding out about the loss of one, and keeping house: snapshots, the
//! archive behind the journal, memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_cluster::directory::Claim;
use mlms_cluster::journal::{AppendError, EntryId, Loaded};
use mlms_cluster::view::ShardRecord;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Class, Epoch, ErrorCode, LobbyId, Millis, NodeName, Seq, Shard};
use mlms_store::StoreError;
use tokio::time::Instant;

use super::owner::{AttachTask, LobbySlot, Output, Task, presence_event};
use super::shard::{Logged, OwnedShard, ShardSlot, Snapshots};
use super::{Done, Envelope, Origin, Worker};
use crate::lobby::{Entry, Passing, PassingEvent, Recorded, State, Target};
use crate::node::Node;
use crate::wire::{FromOwner, LinkMessage};

/// Commands that may wait for a claim of one shard.
const WAITING_MAX: usize = 8_192;
/// Pause before a claim that failed is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(200);
/// Events in one write to the event store.
const ARCHIVE_BATCH: usize = 2_000;
/// Pause after a failed write to the event store.
const ARCHIVE_PAUSE: Duration = Duration::from_secs(1);
/// How often a busy shard's lobbies are snapshotted.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(30);

/// How a claim came out.
pub(super) enum Claimed {
    Won {
        epoch: Epoch,
        loaded: Loaded,
    },
    /// Somebody else owns the shard.
    Lost,
    /// The directory or the journal did not answer.
    Failed,
}

/// Where a command for a shard goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Here,
    /// This node is claiming the shard, or is the one to do so.
    Claim,
    Node(NodeName),
    /// Nobody is ready.
    Nowhere,
}

/// Claims a shard and reads what is kept of it.
async fn claim(node: Arc<Node>, shard: Shard) -> Claimed {
    let Ok(view) = node.directory.refresh().await else { return Claimed::Failed };
    let expected = view.record(shard).cloned();
    if let Some(owner) = view.owner(shard)
        && owner.name != node.name
    {
        return Claimed::Lost;
    }
    let epoch = Epoch(expected.as_ref().map_or(1, |record| record.epoch.0 + 1));
    let record = ShardRecord { node: node.name.clone(), incarnation: node.incarnation, epoch };
    match node.directory.claim(shard, expected.as_ref(), &record).await {
        Ok(Claim::Won) => {}
        Ok(Claim::Lost(now)) if now.as_ref() == Some(&record) => {}
        Ok(Claim::Lost(_)) => return Claimed::Lost,
        Err(_) => return Claimed::Failed,
    }
    for _ in 0..20 {
        match node.journal.load(shard).await {
            Ok(loaded) => return Claimed::Won { epoch, loaded },
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Claimed::Failed
}

impl Worker {
    pub(super) fn route(&self, shard: Shard) -> Route {
        match self.shards.get(&shard) {
            Some(ShardSlot::Owned(_)) => return Route::Here,
            Some(ShardSlot::Claiming { .. }) => return Route::Claim,
            None => {}
        }
        let view = self.node.directory.view();
        match view.owner(shard).or_else(|| view.heir(shard)) {
            Some(node) if node.name == self.node.name => Route::Claim,
            Some(node) => Route::Node(node.name.clone()),
            None => Route::Nowhere,
        }
    }

    /// Keeps a command until the claim of its shard is decided, and starts the claim if none is under way.
    pub(super) fn wait_for_claim(&mut self, shard: Shard, envelope: Option<Envelope>) {
        let mut start = false;
        let slot = self.shards.entry(shard).or_insert_with(|| {
            start = true;
            ShardSlot::Claiming { waiting: Vec::new(), retry_at: None }
        });
        let ShardSlot::Claiming { waiting, .. } = slot else { return };
        match envelope {
            Some(envelope) if waiting.len() < WAITING_MAX => waiting.push(envelope),
            Some(envelope) => {
                let text = "the lobby's node is starting";
                self.refuse(&envelope, ErrorCode::OwnerUnavailable, text, Some(1_000));
            }
            None => {}
        }
        if start {
            self.start_claim(shard);
        }
    }

    fn start_claim(&mut self, shard: Shard) {
        let node = Arc::clone(&self.node);
        self.spawn(async move { Done::Claimed { shard, claimed: claim(node, shard).await } });
    }

    pub(super) fn retry_claims(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (shard, slot) in &mut self.shards {
            if let ShardSlot::Claiming { retry_at, .. } = slot
                && retry_at.is_some_and(|at| at <= now)
            {
                *retry_at = None;
                due.push(*shard);
            }
        }
        for shard in due {
            self.start_claim(shard);
        }
    }

    pub(super) fn on_claimed(&mut self, shard: Shard, claimed: Claimed) {
        let Some(ShardSlot::Claiming { waiting, retry_at }) = self.shards.get_mut(&shard) else { return };
        match claimed {
            Claimed::Won { epoch, loaded } => {
                let waiting = std::mem::take(waiting);
                self.node.metrics.claims.with_label_values(&["won"]).inc();
                tracing::debug!(%shard, %epoch, entries = loaded.entries.len(), "claimed a shard");
                self.serve(shard, epoch, loaded, waiting);
            }
            Claimed::Lost => {
                let waiting = std::mem::take(waiting);
                self.node.metrics.claims.with_label_values(&["lost"]).inc();
                self.shards.remove(&shard);
                for envelope in waiting {
                    self.on_command(envelope);
                }
            }
            Claimed::Failed => {
                self.node.metrics.claims.with_label_values(&["failed"]).inc();
                *retry_at = Some(Instant::now() + CLAIM_PAUSE);
            }
        }
    }

    /// Rebuilds a shard's lobbies and puts them into service.
    fn serve(&mut self, shard: Shard, epoch: Epoch, loaded: Loaded, waiting: Vec<Envelope>) {
        let now = self.node.clock.now();
        let mut owned = Box::new(OwnedShard::new(epoch, loaded.top, Instant::now() + SNAPSHOT_PERIOD));
        let mut states: HashMap<LobbyId, Result<State, String>> = HashMap::new();
        for (lobby, bytes) in loaded.snapshots {
            let state = State::from_snapshot(&bytes).map_err(|error| error.to_string());
            states.insert(lobby, state);
        }
        let mut tails: HashMap<LobbyId, Vec<Entry>> = HashMap::new();
        for (id, bytes) in loaded.entries {
            let entry = match Entry::decode(&bytes) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::error!(%shard, ?id, %error, "an entry of the journal cannot be read");
                    self.node.metrics.unreadable.with_label_values(&["entry"]).inc();
                    continue;
                }
            };
            let Some(first) = entry.events.first() else { continue };
            let (lobby, at) = (first.lobby.clone(), first.at);
            let events = entry.events.iter().cloned().map(Arc::new).collect();
            owned.keep(Logged { id, at, bytes: bytes.len(), events });
            if first.seq == Seq(1) {
                states.entry(lobby.clone()).or_insert_with(|| Ok(State::new(lobby.clone())));
            }
            match states.get_mut(&lobby) {
                Some(Ok(state)) if first.seq.0 <= state.seq.0 + 1 => _ = state.apply_entry(entry),
                Some(Ok(state)) => {
                    let why = format!("event {} is missing before {}", state.seq.next(), first.seq);
                    states.insert(lobby, Err(why));
                }
                Some(Err(_)) => {}
                None => tails.entry(lobby).or_default().push(entry),
            }
        }
        for (lobby, state) in states {
            let slot = match state {
                Ok(state) => Worker::rebuilt(state, now),
                Err(why) => {
                    tracing::error!(%lobby, why, "a lobby cannot be rebuilt; it is out of service");
                    self.node.metrics.quarantined.inc();
                    LobbySlot::Quarantined
                }
            };
            owned.lobbies.insert(lobby, slot);
        }
        let cold: Vec<_> = tails.keys().cloned().collect();
        for (lobby, tail) in tails {
            owned.lobbies.insert(lobby, LobbySlot::Loading { waiting: Vec::new(), tail });
        }
        self.node.metrics.shards.inc();
        self.shards.insert(shard, ShardSlot::Owned(owned));
        for lobby in cold {
            self.load_lobby(lobby);
        }
        self.attach_here(shard);
        for envelope in waiting {
            let lobby = envelope.lobby.clone();
            self.on_owned(shard, &lobby, Task::Command(envelope));
        }
    }

    /// The audiences that were fed from elsewhere are fed from here now.
    fn attach_here(&mut self, shard: Shard) {
        let lobbies: Vec<_> =
            self.attachments.keys().filter(|lobby| shard_of(lobby) == shard).cloned().collect();
        for lobby in lobbies {
            let Some(attachment) = self.attachments.get_mut(&lobby) else { continue };
            let unanswered = attachment.become_local();
            let (since, sessions) = (attachment.position, attachment.attaching());
            if !sessions.is_empty() {
                let task = AttachTask { lobby: lobby.clone(), from: None, since, sessions };
                self.on_owned(shard, &lobby, Task::Attach(task));
            }
            for envelope in unanswered {
                self.on_owned(shard, &lobby, Task::Command(envelope));
            }
        }
    }

    /// The journal has refused an append: another node owns the shard. What was not committed is not said; its
    /// commands go to the new owner.
    pub(super) fn on_deposed(&mut self, shard: Shard) {
        let Some(ShardSlot::Owned(mut owned)) = self.shards.remove(&shard) else { return };
        tracing::info!(%shard, epoch = %owned.epoch, "another node owns the shard now");
        self.node.metrics.depositions.inc();
        self.node.metrics.shards.dec();
        let mut homeless = Vec::new();
        for (lobby, slot) in owned.lobbies.drain() {
            if let Some(attachment) = self.attachments.get_mut(&lobby) {
                attachment.lose_owner();
            }
            match slot {
                LobbySlot::Live(mut lobby) => {
                    homeless.extend(lobby.pending.drain(..).filter_map(|pending| pending.envelope));
                }
                LobbySlot::Loading { waiting, .. } => {
                    homeless.extend(waiting.into_iter().filter_map(|task| match task {
                        Task::Command(envelope) => Some(envelope),
                        Task::Attach(_) => None,
                    }))
                }
                LobbySlot::Quarantined => {}
            }
        }
        for envelope in homeless {
            match &envelope.origin {
                Origin::Session(..) => self.on_command(envelope),
                Origin::Node { node, token } => {
                    let moved = FromOwner::Moved { token: *token, to: None };
                    self.send(node, &LinkMessage::FromOwner(envelope.lobby.clone(), moved));
                }
            }
        }
        let directory = self.node.directory.clone();
        self.spawn(async move {
            // The view's watcher tells this worker what it finds; without an answer the next regular reading does.
            let _ = directory.refresh().await;
            Done::Nothing
        });
    }

    /// Nodes may have come, gone, or restarted, and shards moved.
    pub(super) fn on_view_changed(&mut self) {
        let view = self.node.directory.view();
        let live: Vec<_> = view.nodes.values().map(|node| (node.name.clone(), node.incarnation)).collect();
        if live != self.live_nodes {
            let gone: Vec<_> = self.live_nodes.iter().filter(|node| !live.contains(node)).cloned().collect();
            self.live_nodes = live;
            for (node, _) in gone {
                self.forget_node(&node);
            }
        }
        self.follow_owners();
    }

    /// The sessions of a node that is gone are lost.
    pub(super) fn forget_node(&mut self, gone: &NodeName) {
        let now = self.node.clock.now();
        let mut away = Vec::new();
        for slot in self.shards.values_mut() {
            let ShardSlot::Owned(owned) = slot else { continue };
            let OwnedShard { lobbies, .. } = owned.as_mut();
            for (id, slot) in lobbies {
                let LobbySlot::Live(lobby) = slot else { continue };
                lobby.nodes.remove(gone);
                let lost: Vec<_> = lobby
                    .presence
                    .iter()
                    .flat_map(|(user, presence)| presence.sessions.iter().map(move |session| (user, session)))
                    .filter(|(_, (_, node))| node.as_ref() == Some(gone))
                    .map(|(user, (session, _))| (user.clone(), session.clone()))
                    .collect();
                for (user, session) in lost {
                    if lobby.detach(&session, &user, now) {
                        away.push((id.clone(), user));
                    }
                }
            }
        }
        for (lobby, user) in away {
            self.pass_in(&lobby, presence_event(&lobby, &user, true));
        }
    }

    /// Says an event without a seq in a lobby that this node owns.
    pub(super) fn pass_in(&mut self, lobby_id: &LobbyId, passing: Passing) {
        let mut out = Vec::new();
        if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard_of(lobby_id)) {
            let slot = owned.lobbies.remove(lobby_id);
            if let Some(LobbySlot::Live(mut lobby)) = slot {
                lobby.pass(owned.epoch, passing, None, &mut out);
                owned.lobbies.insert(lobby_id.clone(), LobbySlot::Live(lobby));
            } else if let Some(slot) = slot {
                owned.lobbies.insert(lobby_id.clone(), slot);
            }
        }
        self.emit(lobby_id, out);
    }

    /// Goes through everything: graces that have run out, memory that can be given back, what the directory and
    /// the members should know.
    pub(super) fn sweep(&mut self) {
        let node = Arc::clone(&self.node);
        let now = node.clock.now();
        let (mut changed, mut removed, mut unload, mut told, mut snapshots) =
            (vec![], vec![], vec![], vec![], vec![]);
        let mut lobbies_here = 0;
        let mut backlog = 0;
        for (shard, slot) in &mut self.shards {
            let ShardSlot::Owned(owned) = slot else { continue };
            lobbies_here += owned.lobbies.len();
            backlog += owned.unarchived().count();
            if Instant::now() >= owned.next_snapshot {
                snapshots.push(*shard);
            }
            if let Some(through) = owned.trim(now, Duration::from_secs(node.limits.resume_seconds_max)) {
                let (journal, shard) = (node.journal.clone(), *shard);
                self.under_way.push(Box::pin(async move {
                    // Trimming is tidiness: what was left over now is trimmed with the next.
                    let _ = journal.trim(shard, through).await;
                    Done::Nothing
                }));
            }
            let degraded = owned.is_degraded();
            let mut live = std::mem::take(&mut owned.lobbies);
            for (id, slot) in &mut live {
                let LobbySlot::Live(lobby) = slot else { continue };
                if !degraded && sweep_lobby(lobby, owned, &node, now) {
                    self.gathered.insert(*shard);
                }
                let summary = lobby.summary(node.limits.members_per_lobby_max);
                if lobby.listed.as_ref() != Some(&summary) {
                    lobby.listed = Some(summary.clone());
                    if lobby.state.open { changed.push(summary) } else { removed.push(id.clone()) }
                }
                if lobby.saved > lobby.saved_told {
                    lobby.saved_told = lobby.saved;
                    told.push((id.clone(), lobby.saved));
                }
                let empty = lobby.empty_since.is_some_and(|since| since.after(node.rules.empty_ttl) <= now);
                if empty && lobby.is_at_rest() && !lobby.unloading {
                    lobby.unloading = true;
                    unload.push((id.clone(), lobby.state.clone()));
                }
            }
            owned.lobbies = live;
        }
        self.count(lobbies_here, backlog);
        for (lobby, seq) in told {
            let event = PassingEvent::Saved { lobby: lobby.clone(), seq };
            let key = Some("saved".to_owned());
            self.pass_in(&lobby, Passing { event, class: Class::Ephemeral, key, to: Target::Savers });
        }
        for (lobby, state) in unload {
            self.unload(lobby, state);
        }
        for shard in snapshots {
            self.take_snapshots(shard);
        }
        self.list(changed, removed);
        self.confirm_ports();
        self.attach_again();
    }

    /// The gauges are shared by all workers of the node.
    fn count(&mut self, lobbies: usize, backlog: usize) {
        let now = (i64::try_from(lobbies).unwrap_or(i64::MAX), i64::try_from(backlog).unwrap_or(i64::MAX));
        self.node.metrics.lobbies.add(now.0 - self.counted.0);
        self.node.metrics.archive_backlog.add(now.1 - self.counted.1);
        self.counted = now;
    }

    fn list(&mut self, changed: Vec<mlms_cluster::view::LobbySummary>, removed: Vec<LobbyId>) {
        if changed.is_empty() && removed.is_empty() {
            return;
        }
        let node = Arc::clone(&self.node);
        self.spawn(async move {
            if let Err(error) = node.directory.publish_lobbies(&node.name, changed, removed).await {
                tracing::warn!(%error, "the list of lobbies could not be brought up to date");
            }
            Done::Nothing
        });
    }

    /// Sessions that their node did not name again after a link was reset are gone.
    fn confirm_ports(&mut self) {
        let (now, wall) = (Instant::now(), self.node.clock.now());
        let mut away = Vec::new();
        for slot in self.shards.values_mut() {
            let ShardSlot::Owned(owned) = slot else { continue };
            let OwnedShard { lobbies, .. } = owned.as_mut();
            for (id, slot) in lobbies {
                let LobbySlot::Live(lobby) = slot else { continue };
                let mut gone = Vec::new();
                for port in
                    lobby.nodes.values_mut().filter(|port| port.confirm_by.is_some_and(|by| by <= now))
                {
                    port.confirm_by = None;
                    for session in std::mem::take(&mut port.unconfirmed) {
                        gone.extend(port.sessions.get(&session).cloned().map(|user| (session, user)));
                    }
                }
                for (session, user) in gone {
                    if lobby.detach(&session, &user, wall) {
                        away.push((id.clone(), user));
                    }
                }
            }
        }
        for (lobby, user) in away {
            self.pass_in(&lobby, presence_event(&lobby, &user, true));
        }
    }

    fn unload(&mut self, lobby: LobbyId, state: State) {
        let store = self.node.store.clone();
        self.spawn(async move {
            let (seq, open) = (state.seq, state.open);
            let result = store.save_lobby(&lobby, seq, state.epoch, state.at, !open, &state.snapshot()).await;
            Done::Unloaded { lobby, seq, result }
        });
    }

    pub(super) fn on_unloaded(&mut self, lobby_id: &LobbyId, seq: Seq, result: Result<(), StoreError>) {
        let shard = shard_of(lobby_id);
        let fence = match self.shards.get(&shard) {
            Some(ShardSlot::Owned(owned)) => owned.fence(&self.node),
            _ => return,
        };
        let Some(owned) = self.owned(lobby_id) else { return };
        let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(lobby_id) else { return };
        lobby.unloading = false;
        if let Err(error) = result {
            tracing::warn!(lobby = %lobby_id, %error, "a lobby stays in memory: the database did not take it");
            return;
        }
        // Somebody may have come back meanwhile.
        if lobby.state.seq != seq
            || lobby.empty_since.is_none()
            || !lobby.is_at_rest()
            || owned.snapshots.is_some()
        {
            return;
        }
        owned.lobbies.remove(lobby_id);
        let (journal, lobby) = (self.node.journal.clone(), lobby_id.clone());
        self.list(Vec::new(), vec![lobby_id.clone()]);
        self.spawn(async move {
            // A snapshot that stays behind is older than the one in the database, and is passed over.
            let _ = journal.save_snapshots(shard, &fence, vec![(lobby, None)]).await;
            Done::Nothing
        });
    }

    // --- snapshots

    pub(super) fn snapshot_all(&mut self) {
        let shards: Vec<_> = self.shards.keys().copied().collect();
        for shard in shards {
            self.take_snapshots(shard);
        }
    }

    /// Takes the state of every lobby that has changed. It may include what is not committed yet, so it is saved
    /// only behind that batch.
    fn take_snapshots(&mut self, shard: Shard) {
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        owned.next_snapshot = Instant::now() + SNAPSHOT_PERIOD;
        if owned.snapshots.is_some() || owned.snapshotting {
            return;
        }
        let mut states = Vec::new();
        for (id, slot) in &owned.lobbies {
            if let LobbySlot::Live(lobby) = slot
                && lobby.state.seq > lobby.snapshot_seq
            {
                states.push((id.clone(), lobby.state.seq, Bytes::from(lobby.state.snapshot())));
            }
        }
        if states.is_empty() {
            return;
        }
        owned.snapshots = Some(Snapshots { batch: owned.gathering_batch, states });
        owned.want_append();
        self.gathered.insert(shard);
    }

    pub(super) fn save_snapshots(&mut self, shard: Shard) {
        let node = Arc::clone(&self.node);
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        if owned.snapshots.as_ref().is_none_or(|snapshots| snapshots.batch > owned.committed_batch) {
            return;
        }
        let Some(Snapshots { states, .. }) = owned.snapshots.take() else { return };
        owned.snapshotting = true;
        let (fence, covers) = (owned.fence(&node), owned.top);
        let saved = states.iter().map(|(lobby, seq, _)| (lobby.clone(), *seq)).collect();
        let changed = states.into_iter().map(|(lobby, _, bytes)| (lobby, Some(bytes))).collect();
        self.spawn(async move {
            let result = node.journal.save_snapshots(shard, &fence, changed).await;
            Done::Snapshotted { shard, covers, saved, result }
        });
    }

    pub(super) fn on_snapshotted(
        &mut self,
        shard: Shard,
        covers: EntryId,
        saved: &[(LobbyId, Seq)],
        result: Result<(), AppendError>,
    ) {
        let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { return };
        owned.snapshotting = false;
        match result {
            Ok(()) => {
                owned.snapshotted = owned.snapshotted.max(covers);
                for (lobby, seq) in saved {
                    if let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(lobby) {
                        lobby.snapshot_seq = *seq;
                    }
                }
            }
            Err(AppendError::Deposed) => self.on_deposed(shard),
            Err(AppendError::Unclear) => {
                tracing::warn!(%shard, "snapshots could not be saved; they are taken again")
            }
        }
    }

    // --- archive

    /// Starts a write to the event store, if there is something and none is under way.
    pub(super) fn archive(&mut self) {
        if self.archiving {
            return;
        }
        let (mut events, mut marks) = (Vec::new(), Vec::new());
        for (shard, slot) in &self.shards {
            let ShardSlot::Owned(owned) = slot else { continue };
            let mut last = None;
            for logged in owned.unarchived() {
                if events.len() >= ARCHIVE_BATCH {
                    break;
                }
                events.extend(logged.events.iter().cloned());
                last = Some(logged.id);
            }
            marks.extend(last.map(|id| (*shard, id)));
        }
        if events.is_empty() {
            return;
        }
        self.archiving = true;
        let store = self.node.store.clone();
        self.spawn(async move {
            let mut newest: HashMap<LobbyId, Seq> = HashMap::new();
            for event in &events {
                let seq = newest.entry(event.lobby.clone()).or_default();
                *seq = event.seq.max(*seq);
            }
            let result = store.save_events(&events).await.map(drop);
            if result.is_err() {
                tokio::time::sleep(ARCHIVE_PAUSE).await;
            }
            Done::Archived { marks, saved: newest.into_iter().collect(), events: events.len(), result }
        });
    }

    pub(super) fn on_archived(
        &mut self,
        marks: Vec<(Shard, EntryId)>,
        saved: Vec<(LobbyId, Seq)>,
        events: usize,
        result: Result<(), StoreError>,
    ) {
        self.archiving = false;
        if let Err(error) = result {
            self.node.metrics.archive_failures.inc();
            tracing::warn!(%error, "events could not be written to the database; they stay in the journal");
            return;
        }
        self.node.metrics.archived.inc_by(events as u64);
        for (shard, id) in marks {
            if let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) {
                owned.archived = owned.archived.max(id);
            }
        }
        for (lobby_id, seq) in saved {
            if let Some(owned) = self.owned(&lobby_id)
                && let Some(LobbySlot::Live(lobby)) = owned.lobbies.get_mut(&lobby_id)
            {
                lobby.saved = lobby.saved.max(seq);
            }
        }
    }
}

/// What time does to one lobby. `true`: something is to be journaled.
fn sweep_lobby(lobby: &mut super::owner::Lobby, owned: &mut OwnedShard, node: &Node, now: Millis) -> bool {
    let now = now.max(lobby.state.at);
    lobby.state.trim_recent(&node.limits, lobby.saved, now);
    let over: Vec<_> = lobby
        .presence
        .iter()
        .filter(|(_, presence)| presence.gone_at.is_some_and(|at| at.after(node.rules.grace) <= now))
        .map(|(user, _)| user.clone())
        .collect();
    let mut journaled = false;
    for user in over {
        if lobby.state.member(&user).is_none() {
            lobby.presence.remove(&user);
            continue;
        }
        let changes = lobby.state.departure(&user, Some("timeout"));
        let events = lobby.commit(owned, changes, None, Recorded::Done, now);
        lobby.speak_behind(owned, None, None, events.into_iter().map(Output::Event).collect());
        journaled = true;
    }
    let empty = lobby.state.members_total() == 0;
    lobby.empty_since = if empty { Some(lobby.empty_since.unwrap_or(now)) } else { None };
    journaled
}
