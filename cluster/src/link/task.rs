//! The task of one node's links: drives the peers by what handles, inbox and clock bring, and publishes for
//! them, one batch a peer at a time, so that a slow publish holds up nobody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mlms_protocol::{Incarnation, NodeName};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, Unreadable};
use super::peer::{Node, Peer, Publish};
use super::shared::Shared;
use super::{Delivery, LinkConfig, LinkCounts};
use crate::Unavailable;
use crate::relay::{Inbox, Relay};

/// How long a peer must have been silent before it is given up for a new one.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Task {
    node: Node,
    relay: Relay,
    inbox: Inbox,
    shared: Arc<Shared>,
    deliveries: mpsc::Sender<Delivery>,
    /// Deliveries that did not fit: those of one batch from the inbox, and one reset a peer.
    waiting: VecDeque<Delivery>,
    peers: BTreeMap<NodeName, Peer>,
    timers: BTreeSet<(Instant, NodeName)>,
    timer_of: BTreeMap<NodeName, Instant>,
    shown_counts: LinkCounts,
    /// At most one publish a peer.
    publishes: FuturesUnordered<BoxFuture<'static, Published>>,
}

/// A publish that has ended.
struct Published {
    to: NodeName,
    carries: Option<(u64, u64)>,
    receivers: Result<usize, Unavailable>,
}

async fn publish(relay: Relay, from: NodeName, to: NodeName, publish: Publish) -> Published {
    let receivers = relay.publish(&from, &to, publish.batch).await;
    Published { to, carries: publish.carries, receivers }
}

impl Task {
    pub(super) fn new(
        me: NodeName,
        incarnation: Incarnation,
        relay: Relay,
        inbox: Inbox,
        config: LinkConfig,
        shared: Arc<Shared>,
        deliveries: mpsc::Sender<Delivery>,
    ) -> Task {
        let counts = LinkCounts::default();
        Task {
            node: Node { me, incarnation, config, counts, last_number: 0 },
            relay,
            inbox,
            shared,
            deliveries,
            waiting: VecDeque::new(),
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            timer_of: BTreeMap::new(),
            shown_counts: counts,
            publishes: FuturesUnordered::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let deliveries = self.deliveries.clone();
        let mut is_subscribed = true;
        loop {
            let next_timer = self.timers.first().map(|(at, _)| *at);
            let must_wait = !self.waiting.is_empty();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(published) = self.publishes.next() => self.end_publish(published),
                room = deliveries.reserve(), if must_wait => match room {
                    Ok(room) => if let Some(delivery) = self.waiting.pop_front() { room.send(delivery) },
                    // Nobody reads any more.
                    Err(_) => self.waiting.clear(),
                },
                () = self.shared.wake.notified() => self.look_at_queues(),
                () = tokio::time::sleep_until(next_timer.unwrap_or_else(Instant::now)), if next_timer.is_some() => {
                    self.drive_due();
                }
                batch = self.inbox.recv(), if is_subscribed && !must_wait => match batch {
                    Some(batch) => self.receive(&batch),
                    None => {
                        tracing::warn!(node = %self.node.me, "another run of this node has taken its relay inbox");
                        is_subscribed = false;
                    }
                },
            }
            self.deliver();
            self.show_counts();
        }
        self.finish().await;
    }

    fn end_publish(&mut self, published: Published) {
        match published.receivers {
            Ok(0) => self.node.counts.nobody += 1,
            Ok(_) => {}
            Err(Unavailable(_)) => self.node.counts.publish_failed += 1,
        }
        let reached = published.receivers.is_ok_and(|receivers| receivers > 0);
        if let Some(peer) = self.peers.get_mut(&published.to) {
            peer.published(published.carries, reached, Instant::now(), &self.node.config);
            self.drive(&published.to);
        }
    }

    fn look_at_queues(&mut self) {
        for name in self.shared.news() {
            if !self.peers.contains_key(&name) {
                self.add_peer(name.clone());
            }
            if let Some(peer) = self.peers.get(&name) {
                peer.queue.look();
            }
            self.drive(&name);
        }
    }

    fn drive_due(&mut self) {
        let now = Instant::now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, name)) = self.timers.pop_first() {
                self.timer_of.remove(&name);
                self.drive(&name);
            }
        }
    }

    fn receive(&mut self, bytes: &Bytes) {
        let batch = match Batch::decode(bytes) {
            Ok(batch) => batch,
            Err(Unreadable::Version) => {
                self.node.counts.unknown_version += 1;
                return;
            }
            Err(Unreadable::Malformed) => {
                self.node.counts.malformed += 1;
                return;
            }
        };
        let name = batch.from.clone();
        if !self.peers.contains_key(&name) {
            if self.peers.len() >= self.node.config.peers_max && !self.give_up_most_silent() {
                self.node.counts.refused += 1;
                return;
            }
            self.add_peer(name.clone());
        }
        if let Some(peer) = self.peers.get_mut(&name) {
            peer.receive(batch, Instant::now(), &mut self.node, &mut self.waiting);
        }
        self.drive(&name);
    }

    fn add_peer(&mut self, name: NodeName) {
        let peer = Peer::new(name.clone(), self.shared.queue(&name), &self.node.config);
        self.peers.insert(name, peer);
    }

    /// Makes room for a new peer by dropping one to which nothing is under way. If it comes back, both sides
    /// begin anew.
    fn give_up_most_silent(&mut self) -> bool {
        let silent = self
            .peers
            .values()
            .filter(|peer| peer.is_idle())
            .filter_map(|peer| Some((peer.queue.traffic().heard_at?.elapsed(), peer.name.clone())))
            .filter(|(silence, _)| *silence >= SILENCE)
            .max();
        let Some((_, name)) = silent else { return false };
        let is_dropped = self.shared.drop_queue(&name);
        if is_dropped {
            self.peers.remove(&name);
            self.set_timer(&name, None);
        }
        is_dropped
    }

    /// Lets a peer publish what is due, and sets the timer for what comes next.
    fn drive(&mut self, name: &NodeName) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(name) else { return };
        let ready = peer.turn(now, &mut self.node, &mut self.waiting);
        let due_at = peer.due_at(now, &self.node);
        if let Some(ready) = ready {
            let publish = publish(self.relay.clone(), self.node.me.clone(), name.clone(), ready);
            self.publishes.push(Box::pin(publish));
        }
        self.set_timer(name, due_at);
    }

    fn set_timer(&mut self, name: &NodeName, at: Option<Instant>) {
        let before = match at {
            Some(at) => self.timer_of.insert(name.clone(), at),
            None => self.timer_of.remove(name),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.timers.remove(&(before, name.clone()));
        }
        if let Some(at) = at {
            self.timers.insert((at, name.clone()));
        }
    }

    /// Hands over what the reader has room for.
    fn deliver(&mut self) {
        while let Some(delivery) = self.waiting.pop_front() {
            match self.deliveries.try_send(delivery) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(delivery)) => {
                    self.waiting.push_front(delivery);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
    }

    fn show_counts(&mut self) {
        self.node.counts.inbox_dropped = self.inbox.dropped();
        if self.node.counts != self.shown_counts {
            self.shown_counts = self.node.counts;
            self.shared.set_counts(self.node.counts);
        }
    }

    /// Publishes what is still queued, once, without waiting for acknowledgements.
    async fn finish(mut self) {
        self.node.config.gather = Duration::ZERO;
        self.node.config.window_batches_max = usize::MAX;
        let deadline = Instant::now() + self.node.config.stop;
        self.look_at_queues();
        let names: Vec<NodeName> = self.peers.keys().cloned().collect();
        for name in names {
            self.drive(&name);
        }
        let publish_all = async {
            while let Some(published) = self.publishes.next().await {
                self.end_publish(published);
            }
        };
        if tokio::time::timeout_at(deadline, publish_all).await.is_err() {
            tracing::warn!(node = %self.node.me, "the links stopped before everything was published");
        }
    }
}
