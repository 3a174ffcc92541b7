//! What time does to the lobbies of a worker: graces that run out, memory that is given back, lists and gauges.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use mlms_protocol::placement::shard_of;
use mlms_protocol::{Class, LobbyId, Millis, Seq};
use mlms_store::StoreError;
use tokio::time::Instant;

use super::attachment::Attachment;
use super::live::{Lobby, LobbySlot, Output, presence_event};
use super::shard::{OwnedShard, ShardSlot};
use super::{Done, Worker};
use crate::lobby::{Passing, PassingEvent, Recorded, State, Target};
use crate::node::Node;

impl Worker {
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
        let attachments = &self.attachments;
        self.crowded.retain(|lobby| attachments.get(lobby).is_some_and(Attachment::is_crowded));
        let node = Arc::clone(&self.node);
        let now = node.clock.now();
        let (mut changed, mut removed, mut unload, mut told, mut snapshots, mut missing, mut trims) =
            (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
        let mut lobbies_here = 0;
        let mut backlog = 0;
        let mut degraded_shards = 0;
        for (shard, slot) in &mut self.shards {
            let ShardSlot::Owned(owned) = slot else { continue };
            lobbies_here += owned.lobbies.len();
            backlog += owned.unarchived().count();
            let degraded = owned.is_degraded();
            degraded_shards += i64::from(degraded);
            if owned.moving.is_some() || owned.restoring {
                // What is moving is left as it is; the next owner tidies up. What is being restored changes its ids.
                continue;
            }
            if Instant::now() >= owned.next_snapshot {
                snapshots.push(*shard);
            }
            let resume = Duration::from_secs(node.rules.load().limits.resume_seconds_max);
            let through = owned.trim(now, resume).max(owned.forgotten_here());
            trims.extend(through.map(|through| (*shard, through)));
            let mut live = std::mem::take(&mut owned.lobbies);
            for (id, slot) in &mut live {
                let LobbySlot::Live(lobby) = slot else { continue };
                if !degraded {
                    // As when it takes a command: a panic leaves the lobby out of service, and nothing else.
                    let swept = catch_unwind(AssertUnwindSafe(|| sweep_lobby(lobby, owned, &node, now)));
                    let Ok(journaled) = swept else {
                        tracing::error!(lobby = %id, "a lobby's code panicked; the lobby is out of service");
                        node.metrics.quarantined.inc();
                        *slot = LobbySlot::Quarantined;
                        continue;
                    };
                    if journaled {
                        self.gathered.insert(*shard);
                    }
                    missing.extend(lobby.note_missing(now).into_iter().map(|user| (id.clone(), user)));
                }
                let summary = lobby.summary(node.rules.load().limits.members_per_lobby_max);
                if lobby.listed.as_ref() != Some(&summary) {
                    lobby.listed = Some(summary.clone());
                    if lobby.state.open { changed.push(summary) } else { removed.push(id.clone()) }
                }
                if lobby.saved > lobby.saved_told {
                    lobby.saved_told = lobby.saved;
                    told.push((id.clone(), lobby.saved));
                }
                let empty =
                    lobby.empty_since.is_some_and(|since| since.after(node.rules.load().empty_ttl) <= now);
                if empty && lobby.is_at_rest() && !lobby.unloading {
                    lobby.unloading = true;
                    unload.push((id.clone(), lobby.state.clone()));
                }
            }
            owned.lobbies = live;
        }
        node.conditions.report_journal(&node.metrics, &mut self.reported, degraded_shards);
        self.count(lobbies_here, backlog);
        self.count_backlog();
        self.keep_cursors();
        self.keep_epochs();
        for (lobby, user) in missing {
            self.pass_in(&lobby, presence_event(&lobby, &user, true));
        }
        for (lobby, seq) in told {
            let event = PassingEvent::Saved { lobby: lobby.clone(), seq };
            let key = Some("saved".to_owned());
            self.pass_in(
                &lobby,
                Passing { event, class: Class::Ephemeral, key, to: Target::Savers, trace: None },
            );
        }
        for (lobby, state) in unload {
            self.unload(lobby, state);
        }
        for (shard, through) in trims {
            self.trim_journal(shard, through);
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
}

/// What time does to one lobby. `true`: something is to be journaled.
fn sweep_lobby(lobby: &mut Lobby, owned: &mut OwnedShard, node: &Node, now: Millis) -> bool {
    let now = now.max(lobby.state.at);
    lobby.state.trim_recent(&node.rules.load().limits, lobby.saved, now);
    let over: Vec<_> = lobby
        .presence
        .iter()
        .filter(|(_, presence)| presence.gone_at.is_some_and(|at| at.after(node.rules.load().grace) <= now))
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
