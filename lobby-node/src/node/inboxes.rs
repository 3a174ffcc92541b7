//! The ways to the workers' inboxes: from sessions, from the links, from the view. Nobody waits for ever for a worker
//! that does not turn: what it has no room for is refused and counted, and what came over a link is made good by a
//! reset as soon as it turns again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use mlms_cluster::link::{LinkEvent, LinkEvents};
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Incarnation, LobbyId, NodeName, Shard};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Node;
use super::threads::WorkerHandle;
use crate::status::ShardReport;
use crate::wire::{Achievement, LinkMessage};
use crate::worker::{Envelope, Moved, ToWorker};

/// Changes of the view are passed on to the workers no more often than this.
const VIEW_PAUSE: Duration = Duration::from_millis(50);
/// How long a worker whose inbox is full may take to make room. Beyond it the worker counts as stuck, and nobody waits
/// for it until it has room again.
const INBOX_TIME: Duration = Duration::from_secs(2);
/// How long a move may take: more than all of its steps together, each of which has its own end.
const MOVE_TIME: Duration = Duration::from_secs(15);
/// How often a worker that has missed something is told again.
const TELL_AGAIN: Duration = Duration::from_millis(500);

impl WorkerHandle {
    /// Puts something into the inbox; gives it back when there is no room within the time.
    async fn put(&self, message: ToWorker, time: Duration) -> Result<(), ToWorker> {
        let message = match self.inbox.try_send(message) {
            // A worker that has ended belongs to a node that is gone.
            Ok(()) | Err(TrySendError::Closed(_)) => {
                self.is_stuck.store(false, Ordering::Relaxed);
                return Ok(());
            }
            Err(TrySendError::Full(message)) => message,
        };
        if self.is_stuck.load(Ordering::Relaxed) {
            return Err(message);
        }
        match timeout(time, self.inbox.reserve()).await {
            Ok(Ok(place)) => place.send(message),
            Ok(Err(_)) => {}
            Err(_) => {
                self.is_stuck.store(true, Ordering::Relaxed);
                return Err(message);
            }
        }
        Ok(())
    }
}

impl Node {
    /// Hands something to the worker of a lobby that can do without it while that worker does not keep up.
    pub(crate) fn mention(&self, lobby: &LobbyId, message: ToWorker) {
        let _ = self.workers[self.worker_of(shard_of(lobby))].inbox.try_send(message);
    }

    /// Hands something to the worker of a lobby.
    ///
    /// # Errors
    /// The worker does not keep up: the message comes back.
    pub(crate) async fn tell(&self, lobby: &LobbyId, message: ToWorker) -> Result<(), ToWorker> {
        self.tell_worker(self.worker_of(shard_of(lobby)), message).await
    }

    /// Hands a command to the worker of its lobby, if that has room now; else gives it back.
    pub(crate) fn try_tell(&self, envelope: Box<Envelope>) -> Option<Box<Envelope>> {
        let worker = &self.workers[self.worker_of(shard_of(&envelope.lobby))];
        match worker.inbox.try_send(ToWorker::Command(envelope)) {
            Err(TrySendError::Full(ToWorker::Command(envelope))) => return Some(envelope),
            // Looked at first: the place is shared with all sessions of the worker.
            Ok(()) if worker.is_stuck.load(Ordering::Relaxed) => {
                worker.is_stuck.store(false, Ordering::Relaxed)
            }
            // A worker that has ended belongs to a node that is gone.
            _ => {}
        }
        None
    }

    /// Hands something over that must not be lost, however long it takes.
    pub(crate) async fn insist(&self, lobby: &LobbyId, message: ToWorker) {
        // A worker that has ended belongs to a node that is gone.
        let _ = self.workers[self.worker_of(shard_of(lobby))].inbox.send(message).await;
    }

    async fn tell_worker(&self, number: usize, message: ToWorker) -> Result<(), ToWorker> {
        let told = self.workers[number].put(message, INBOX_TIME).await;
        if told.is_err() {
            self.metrics.inbox_refused.inc();
        }
        told
    }

    /// The number of the worker that a shard's lobbies are with.
    pub(crate) fn worker_of(&self, shard: Shard) -> usize {
        usize::from(shard.0) % self.workers.len()
    }

    /// Asks every worker the same, and waits for all their answers, however long that takes: whoever asks sets the end.
    pub(crate) async fn ask_all<T>(&self, question: impl Fn(oneshot::Sender<T>) -> ToWorker) -> Vec<T> {
        let mut asked = Vec::new();
        for number in 0..self.workers.len() {
            let (answer, answered) = oneshot::channel();
            if self.tell_worker(number, question(answer)).await.is_ok() {
                asked.push(answered);
            }
        }
        // A worker that has ended has nothing to say.
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// What the workers own. One that does not turn is left out.
    pub(crate) async fn reports(&self) -> Vec<ShardReport> {
        let mut asked = Vec::new();
        for number in 0..self.workers.len() {
            let (answer, answered) = oneshot::channel();
            if self.tell_worker(number, ToWorker::Report(answer)).await.is_ok() {
                asked.push(timeout(INBOX_TIME, answered));
            }
        }
        join_all(asked).await.into_iter().flatten().flatten().flatten().collect()
    }

    /// Tells every worker the same. `false`: one has not heard it.
    pub(crate) async fn tell_all(&self, message: impl Fn() -> ToWorker) -> bool {
        let mut all = true;
        for number in 0..self.workers.len() {
            all &= self.tell_worker(number, message()).await.is_ok();
        }
        all
    }

    /// Gives a shard to another node, and waits for the outcome. A worker that does not turn keeps its shard.
    pub(crate) async fn move_shard(&self, shard: Shard, to: NodeName) -> Moved {
        let _under_way = self.moves.begin(shard, &to);
        let (answer, answered) = oneshot::channel();
        // Dropped with its message, the answer never comes.
        let _ = self.tell_worker(self.worker_of(shard), ToWorker::Move { shard, to, answer }).await;
        match timeout(MOVE_TIME, answered).await {
            Ok(answered) => answered.unwrap_or(Moved::NotOwned),
            Err(_) => Moved::Kept,
        }
    }
}

/// Tells the workers when the view changes.
pub(super) async fn watch_view(node: Arc<Node>) {
    let mut view = node.directory.watch();
    let mut has_missed = false;
    loop {
        tokio::select! {
            changed = view.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(TELL_AGAIN), if has_missed => {}
            () = node.stop.cancelled() => return,
        }
        has_missed = !node.tell_all(|| ToWorker::ViewChanged).await;
        tokio::time::sleep(VIEW_PAUSE).await;
    }
}

/// Hands what the links bring to the workers that know the lobbies.
pub(super) async fn dispatch(node: Arc<Node>, mut events: LinkEvents) {
    let mut post = Post { node, incarnations: HashMap::new(), missed: HashSet::new() };
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => post.deliver(event).await,
                None => return,
            },
            () = tokio::time::sleep(TELL_AGAIN), if !post.missed.is_empty() => post.make_good().await,
        }
    }
}

struct Post {
    node: Arc<Node>,
    incarnations: HashMap<NodeName, Incarnation>,
    /// Workers that have missed something of a peer, and get nothing more of it before a reset.
    missed: HashSet<(usize, NodeName)>,
}

impl Post {
    async fn deliver(&mut self, event: LinkEvent) {
        let node = Arc::clone(&self.node);
        match event {
            LinkEvent::Received { from, incarnation, payload } => {
                self.incarnations.insert(from.clone(), incarnation);
                let (shard, message) = match LinkMessage::decode(&payload) {
                    Some(LinkMessage::ToOwner(lobby, message)) => {
                        let (from, message) = (from.clone(), Box::new(message));
                        (shard_of(&lobby), ToWorker::FromNode { from, lobby, message })
                    }
                    Some(LinkMessage::FromOwner(lobby, message)) => {
                        let (from, message) = (from.clone(), Box::new(message));
                        (shard_of(&lobby), ToWorker::FromOwner { from, lobby, message })
                    }
                    Some(LinkMessage::Shard(shard, message)) => {
                        let (from, message) = (from.clone(), Box::new(message));
                        (shard, ToWorker::ShardMessage { from, incarnation, shard, message })
                    }
                    Some(LinkMessage::Replace(session)) => return node.replace(&session),
                    Some(LinkMessage::Achievement(Achievement { user, achievement, at })) => {
                        return node.tell_achievement(&user, &achievement, at);
                    }
                    Some(LinkMessage::Blocks(user, users)) => return node.hear_blocks(&user, &users),
                    None => return node.metrics.unreadable.with_label_values(&["link_message"]).inc(),
                };
                self.hand(node.worker_of(shard), &from, message).await;
            }
            LinkEvent::IncomingReset { from, incarnation } => {
                let restarted = self.incarnations.insert(from.clone(), incarnation) != Some(incarnation);
                node.metrics.link_resets.with_label_values(&["incoming"]).inc();
                self.hand_reset(&from, restarted).await;
            }
            LinkEvent::OutgoingReset { to } => {
                node.metrics.link_resets.with_label_values(&["outgoing"]).inc();
                self.hand_reset(&to, false).await;
            }
        }
    }

    async fn hand_reset(&mut self, peer: &NodeName, restarted: bool) {
        for number in 0..self.node.workers.len() {
            let reset = ToWorker::LinkReset { peer: peer.clone(), restarted };
            self.hand(number, peer, reset).await;
        }
    }

    /// Hands something of a peer to a worker, unless something before it is missing there.
    async fn hand(&mut self, number: usize, peer: &NodeName, message: ToWorker) {
        let key = (number, peer.clone());
        if self.missed.contains(&key) && !self.reset(&key).await {
            return self.node.metrics.inbox_refused.inc();
        }
        if self.node.tell_worker(number, message).await.is_err() {
            tracing::warn!(%peer, worker = number, "a worker does not keep up with another node's messages");
            self.missed.insert(key);
        }
    }

    /// Lets a worker forget what it had of a peer: both sides begin anew, and nothing in between is taken for whole.
    async fn reset(&mut self, key: &(usize, NodeName)) -> bool {
        let reset = ToWorker::LinkReset { peer: key.1.clone(), restarted: true };
        let is_told = self.node.tell_worker(key.0, reset).await.is_ok();
        if is_told {
            self.missed.remove(key);
        }
        is_told
    }

    async fn make_good(&mut self) {
        for key in self.missed.clone() {
            self.reset(&key).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tokio::runtime::Handle;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_stuck_worker_twice_and_it_counts_again_when_it_turns() {
        let (inbox, mut taken) = mpsc::channel(1);
        let worker = WorkerHandle { inbox, runtime: Handle::current(), is_stuck: AtomicBool::new(false) };
        let time = Duration::from_secs(2);
        assert!(worker.put(ToWorker::ViewChanged, time).await.is_ok());
        let began = tokio::time::Instant::now();
        assert!(worker.put(ToWorker::Rejoin, time).await.is_err(), "there is no room");
        assert_eq!(began.elapsed(), time);
        assert!(worker.put(ToWorker::Rejoin, time).await.is_err());
        assert_eq!(began.elapsed(), time, "at once");
        assert!(matches!(taken.recv().await, Some(ToWorker::ViewChanged)));
        assert!(worker.put(ToWorker::Rejoin, time).await.is_ok());
        let (told, _) = tokio::join!(worker.put(ToWorker::ViewChanged, time), async {
            tokio::time::sleep(time / 2).await;
            taken.recv().await
        });
        assert!(told.is_ok(), "one that turns is waited for");
    }
}
