//! A worker owns a part of all lobbies, on one thread: those that this node owns, and the audiences of those that
//! it does not. It takes commands, decides, journals, fans out, and never waits for a member or another node.

mod archive;
mod attachment;
mod cold;
mod done;
mod epochs;
mod evidence;
mod forgetting;
mod forward;
mod intake;
mod live;
mod message;
mod moving;
mod owner;
mod ownership;
mod peers;
mod publish;
mod refused;
mod restoring;
mod seat;
mod shard;
mod speech;
mod sweep;
mod taking;
mod traced;
mod unanswered;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mlms_cluster::journal::EntryId;
use mlms_process::trace::Span;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{
    Answer, Epoch, ErrorCode, Incarnation, LobbyCommand, LobbyEvent, LobbyId, NodeName, Refusal, Shard,
    TraceParent,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use crate::condition::Reported;
use crate::node::Node;
use crate::status::ShardReport;
use crate::wire::{FromOwner, LinkMessage};
use attachment::Attachment;
use done::Done;
use moving::Given;
use refused::Refused;
use shard::{OwnedShard, ShardSlot};

pub(crate) use message::{Envelope, Origin, ToWorker, Turn};
pub(crate) use moving::Moved;
pub(crate) use traced::Traced;

/// Commands that may wait for a worker; a session that has one more waits with it, and reads nothing meanwhile.
pub(crate) const INBOX_MAX: usize = 8_192;
/// Messages taken in one go before what they caused is journaled and written.
const BATCH_MAX: usize = 256;
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often everything a worker has is gone through: graces, memory, snapshots, lists.
const SWEEP: Duration = Duration::from_secs(1);

/// The state of one worker.
pub(crate) struct Worker {
    node: Arc<Node>,
    /// Among the node's workers.
    number: usize,
    shards: HashMap<Shard, ShardSlot>,
    /// The audiences of this node's sessions, of lobbies owned here and elsewhere.
    attachments: HashMap<LobbyId, Attachment>,
    /// Lobbies with something staged.
    staged: HashSet<LobbyId>,
    /// Spans of events that are staged.
    delivering: Vec<Span>,
    /// Lobbies with something on its way to a very large audience.
    spreading: HashSet<LobbyId>,
    /// Shards with something to append.
    gathered: HashSet<Shard>,
    /// Shards that are being given away.
    moving: HashSet<Shard>,
    given: HashMap<Shard, Given>,
    /// Lobbies that wait for nodes to attach again, and until when.
    awaiting: HashMap<LobbyId, Instant>,
    /// Audiences whose owner the view contradicts: so long they wait for that owner's word.
    turning: HashMap<LobbyId, Instant>,
    /// Lobbies with commands that wait for a former owner's word.
    blocked: HashSet<LobbyId>,
    /// Lobbies where too much waits for this node's own attach, or did.
    crowded: HashSet<LobbyId>,
    /// Lobbies that are owned here, and have commands that waited for that.
    due: HashSet<LobbyId>,
    /// Losses of the directory that were seen.
    lost: u64,
    /// Owners that other nodes named and the view does not show yet.
    hints: HashMap<Shard, (NodeName, Epoch)>,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    archiving: bool,
    publishing: bool,
    /// Something became of entries since it was last looked whether there is any to archive or to publish.
    storing_due: bool,
    /// How far events have gone out, where the database does not know yet.
    cursors_due: HashMap<Shard, EntryId>,
    keeping_cursors: bool,
    keeping_epochs: bool,
    /// As last counted in the node's backlog and its metrics.
    counted_bytes: u64,
    counted_unpublished: u64,
    next_token: u64,
    /// What this worker did not carry out for other nodes of late.
    refused: Refused,
    live_nodes: Vec<(NodeName, Incarnation)>,
    resting: Vec<oneshot::Sender<()>>,
    /// The node has left the fleet.
    has_left: bool,
    next_sweep: Instant,
    /// Lobbies and backlog as last counted in the metrics.
    counted: (i64, i64),
    reported: Reported,
}

/// A join that could have created its lobby and did not costs its user nothing.
fn give_back_create(node: &Node, envelope: &Envelope, outcome: &Result<Answer, Refusal>) {
    if let (Origin::Session(session, _), LobbyCommand::Join(join)) = (&envelope.origin, &envelope.command)
        && join.create.is_some()
        && join.create_later_ms.is_none()
        && !has_created(outcome)
    {
        node.creates.give_back(&session.caller.user);
    }
}

/// Whether a join may have created its lobby: then its member is the only one. Who enters an empty lobby again is
/// counted too.
fn has_created(outcome: &Result<Answer, Refusal>) -> bool {
    match outcome {
        Ok(Answer::Joined(joined)) => joined.state.as_ref().is_some_and(|state| state.members_total <= 1),
        _ => false,
    }
}

impl Worker {
    pub(crate) fn new(node: Arc<Node>, number: usize) -> Self {
        Worker {
            node,
            number,
            shards: HashMap::new(),
            attachments: HashMap::new(),
            staged: HashSet::new(),
            delivering: Vec::new(),
            spreading: HashSet::new(),
            gathered: HashSet::new(),
            moving: HashSet::new(),
            given: HashMap::new(),
            awaiting: HashMap::new(),
            turning: HashMap::new(),
            blocked: HashSet::new(),
            crowded: HashSet::new(),
            due: HashSet::new(),
            lost: 0,
            hints: HashMap::new(),
            under_way: FuturesUnordered::new(),
            archiving: false,
            publishing: false,
            storing_due: true,
            cursors_due: HashMap::new(),
            keeping_cursors: false,
            keeping_epochs: false,
            counted_bytes: 0,
            counted_unpublished: 0,
            next_token: unanswered::NUMBERS,
            refused: Refused::default(),
            live_nodes: Vec::new(),
            resting: Vec::new(),
            has_left: false,
            next_sweep: Instant::now() + SWEEP,
            counted: (0, 0),
            reported: Reported::default(),
        }
    }

    /// Runs until the inbox is closed.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<ToWorker>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                biased;
                () = self.node.stop.cancelled() => break,
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => {
                    self.node.check_standing();
                    self.on_done(done);
                    self.take_done();
                    self.storing_due = true;
                }
                _ = tick.tick() => {
                    self.on_tick();
                    self.storing_due = true;
                }
                taken = inbox.recv_many(&mut batch, BATCH_MAX) => {
                    if taken == 0 {
                        break;
                    }
                    self.node.check_standing();
                    for message in batch.drain(..) {
                        self.on_message(message);
                    }
                }
                // Sessions are read between two slices.
                () = tokio::task::yield_now(), if !self.spreading.is_empty() || !self.due.is_empty() => {}
            }
            self.take_due();
            self.spread();
            self.advance_moves();
            self.submit();
            self.flush();
            // Looks at every shard: not for messages that are passed on and nothing else.
            if std::mem::take(&mut self.storing_due) {
                self.archive();
                self.publish();
            }
            self.answer_resting();
        }
    }

    /// Takes what else is done by now, so that it shares what follows with the first.
    fn take_done(&mut self) {
        for _ in 1..BATCH_MAX {
            // Whoever polls next registers its waker again.
            let Some(Some(done)) = self.under_way.next().now_or_never() else { return };
            self.on_done(done);
        }
    }

    fn on_message(&mut self, message: ToWorker) {
        match message {
            ToWorker::Command(envelope) => self.on_command(*envelope),
            ToWorker::Detach { lobby, session } => self.on_detach(&lobby, &session),
            ToWorker::Blocks { lobby, session } => {
                if let Some(attachment) = self.attachments.get_mut(&lobby) {
                    attachment.audience.note_blocks(&session);
                }
            }
            ToWorker::Pull { lobby, session } => self.on_pull(&lobby, &session),
            ToWorker::FromNode { from, lobby, message } => self.on_from_node(from, lobby, *message),
            ToWorker::FromOwner { from, lobby, message } => self.on_from_owner(&from, &lobby, *message),
            ToWorker::LinkReset { peer, restarted } => self.on_link_reset(&peer, restarted),
            ToWorker::ShardMessage { from, incarnation, shard, message } => {
                self.on_shard_message(from, incarnation, shard, *message);
            }
            ToWorker::Move { shard, to, answer } => self.on_move(shard, to, answer),
            // Whoever asked may have gone.
            ToWorker::Report(answer) => _ = answer.send(self.report()),
            ToWorker::ViewChanged => self.on_view_changed(),
            ToWorker::Rejoin => self.rejoin_all(),
            ToWorker::Rest(answer) => self.rest(answer),
            ToWorker::LetGo(answer) => self.let_go(answer),
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Appended { shard, batch, result, took } => self.on_appended(shard, batch, result, took),
            Done::Claimed { shard, claimed } => self.on_claimed(shard, claimed),
            Done::Loaded { lobby, result } => self.on_loaded(&lobby, result),
            Done::History { envelope, result } => self.on_history(*envelope, result),
            Done::Archived { marks, saved, report, aside, result } => {
                self.on_archived(marks, saved, report, aside, result);
            }
            Done::Published { marks, events, taken } => self.on_published(marks, events, taken),
            Done::Cursors { cursors } => self.on_cursors(cursors),
            Done::EpochsKept { kept } => self.on_epochs_kept(kept),
            Done::CursorsKept { cursors, result } => self.on_cursors_kept(cursors, result),
            Done::Snapshotted { shard, covers, saved, result } => {
                self.on_snapshotted(shard, covers, &saved, result)
            }
            Done::Unloaded { lobby, seq, result } => self.on_unloaded(&lobby, seq, result),
            Done::Preloaded { shard, result } => self.on_preloaded(shard, result),
            Done::Handed { shard, record, handed } => self.on_handed(shard, record, handed),
            Done::Examined { envelope, outcome } => self.on_examined(*envelope, outcome),
            Done::Filed { envelope, result } => self.on_filed(*envelope, result),
            Done::Restored { shard, restored } => self.on_restored(shard, restored),
            Done::Trimmed { shard, through, is_done } => self.on_trimmed(shard, through, is_done),
            Done::Forgotten { envelope, result } => self.on_forgotten(*envelope, result),
            Done::Nothing => {}
        }
    }

    fn spawn(&mut self, future: impl Future<Output = Done> + Send + 'static) {
        self.under_way.push(Box::pin(future));
    }

    fn send(&self, to: &NodeName, message: &LinkMessage) {
        self.node.links.send(to, message.encode());
    }

    /// Tells whoever gave a command how it came out. For a session this is the plain way, outside of any lobby's
    /// order; replies that have a place in it go through the audience.
    fn reply(&mut self, envelope: &Envelope, outcome: Result<Answer, Refusal>) {
        if let Err(refusal) = &outcome {
            self.node.metrics.refusals.with_label_values(&[refusal.code.as_str()]).inc();
        }
        match &envelope.origin {
            Origin::Session(session, reply_to) => {
                give_back_create(&self.node, envelope, &outcome);
                let frame =
                    session.reply_frame(reply_to, envelope.command.op(), Some(&envelope.lobby), outcome);
                if let Some(frame) = frame {
                    match self.attachments.get_mut(&envelope.lobby) {
                        Some(attachment) => {
                            attachment.audience.stage_ready(session, &frame);
                            self.staged.insert(envelope.lobby.clone());
                        }
                        None => session.outbox.push(&frame),
                    }
                }
            }
            Origin::Call(answer) => {
                // Whoever asked may have stopped waiting.
                let _ = answer.try_send(outcome);
                self.staged.insert(envelope.lobby.clone());
            }
            Origin::Node { node, token, of, .. } => {
                if let (Err(refusal), Some(of), Some(epoch)) = (&outcome, of, self.epoch_of(&envelope.lobby))
                {
                    self.refused.note(node, &envelope.lobby, *of, epoch, refusal);
                }
                let answer = FromOwner::Answer { token: *token, outcome };
                self.send(node, &LinkMessage::FromOwner(envelope.lobby.clone(), answer));
            }
        }
    }

    /// The epoch in which a lobby is owned here.
    fn epoch_of(&self, lobby: &LobbyId) -> Option<Epoch> {
        match self.shards.get(&shard_of(lobby)) {
            Some(ShardSlot::Owned(owned)) => Some(owned.epoch),
            _ => None,
        }
    }

    fn refuse(&mut self, envelope: &Envelope, code: ErrorCode, message: &str, retry_ms: Option<u64>) {
        let mut refusal = Refusal::new(code, message);
        refusal.retry_ms = retry_ms;
        self.reply(envelope, Err(refusal));
    }

    /// Writes what is staged.
    fn flush(&mut self) {
        for lobby in self.staged.drain() {
            if let Some(attachment) = self.attachments.get_mut(&lobby) {
                attachment.audience.flush();
                if attachment.audience.is_spreading() {
                    self.spreading.insert(lobby);
                } else if attachment.is_idle() {
                    self.attachments.remove(&lobby);
                }
            }
        }
        self.delivering.clear();
    }

    /// Writes to the next slice of each very large audience.
    fn spread(&mut self) {
        if self.spreading.is_empty() {
            return;
        }
        let attachments = &mut self.attachments;
        self.spreading.retain(|lobby| {
            attachments.get_mut(lobby).is_some_and(|attachment| !attachment.audience.spread())
        });
    }

    /// Starts an append for every shard that has gathered something and has none under way.
    fn submit(&mut self) {
        for shard in std::mem::take(&mut self.gathered) {
            let Some(ShardSlot::Owned(owned)) = self.shards.get_mut(&shard) else { continue };
            if let Some(append) = owned.next_append(&self.node, shard) {
                self.under_way.push(Box::pin(append));
            }
        }
    }

    fn on_tick(&mut self) {
        self.node.check_standing();
        let now = Instant::now();
        self.expire_commands(now);
        self.retry_claims(now);
        self.expire_expected(now);
        self.take_back_unserved(now);
        self.take_early(now);
        self.turn_due(now);
        self.send_blocked();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            self.sweep();
        }
    }

    fn owned(&mut self, lobby: &LobbyId) -> Option<&mut OwnedShard> {
        match self.shards.get_mut(&shard_of(lobby)) {
            Some(ShardSlot::Owned(owned)) => Some(owned),
            _ => None,
        }
    }

    /// Whether this worker is the one for a shard.
    fn is_mine(&self, shard: Shard) -> bool {
        self.node.worker_of(shard) == self.number
    }

    /// What this worker owns or is about to own.
    fn report(&self) -> Vec<ShardReport> {
        self.shards.iter().map(|(shard, slot)| slot.report(*shard)).collect()
    }

    fn token(&mut self) -> u64 {
        self.next_token += unanswered::NUMBERS;
        self.next_token
    }

    fn rest(&mut self, answer: oneshot::Sender<()>) {
        self.resting.push(answer);
        self.snapshot_all();
    }

    fn answer_resting(&mut self) {
        if self.resting.is_empty() || !self.under_way.is_empty() || self.archiving {
            return;
        }
        let busy =
            self.shards.values().any(|slot| matches!(slot, ShardSlot::Owned(owned) if owned.is_busy()));
        if !busy && !self.cursors_due.is_empty() {
            return self.keep_cursors();
        }
        if !busy {
            for answer in self.resting.drain(..) {
                // Whoever asked may have stopped waiting at its deadline.
                let _ = answer.send(());
            }
        }
    }
}

/// The payload of one event for peers is the same for all of them.
fn event_message(
    lobby: &LobbyId,
    epoch: mlms_protocol::Epoch,
    event: &LobbyEvent,
    trace: Option<TraceParent>,
) -> Bytes {
    LinkMessage::FromOwner(lobby.clone(), FromOwner::Event { epoch, event: event.clone(), trace }).encode()
}
