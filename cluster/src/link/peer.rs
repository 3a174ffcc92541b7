//! Both halves of the links with one peer, and when something must be said to it. Pure: time is passed in, and
//! each turn yields at most one batch to publish.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_protocol::{Incarnation, NodeName};
use tokio::time::Instant;

use super::batch::{Acknowledged, Batch, Data};
use super::incoming::Incoming;
use super::outgoing::{Outgoing, Progress};
use super::queue::{Backlog, Cut, Queue};
use super::{Delivery, LinkConfig, LinkCounts};

/// The least time between two answers to one peer, so that a burst of questions gets one.
const ANSWER_PAUSE: Duration = Duration::from_millis(10);

/// What all peers of a node have in common.
pub(super) struct Node {
    pub(super) me: NodeName,
    pub(super) incarnation: Incarnation,
    pub(super) config: LinkConfig,
    pub(super) counts: LinkCounts,
    /// The last generation or adoption given out. One counter for all peers: a number is never used twice.
    pub(super) last_number: u64,
}

impl Node {
    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

pub(super) struct Peer {
    pub(super) name: NodeName,
    pub(super) queue: Arc<Queue>,
    incarnation: Option<Incarnation>,
    outgoing: Outgoing,
    incoming: Option<Incoming>,
    /// A publish is under way; the next waits for its end, so that one peer's batches keep their order.
    publishing: bool,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    answer_at: Option<Instant>,
    spoke_at: Option<Instant>,
}

/// A batch to publish.
pub(super) struct Publish {
    pub(super) batch: Bytes,
    /// Generation and number, if it carries messages.
    pub(super) carries: Option<(u64, u64)>,
}

impl Peer {
    pub(super) fn new(name: NodeName, queue: Arc<Queue>, config: &LinkConfig) -> Peer {
        Peer {
            name,
            queue,
            incarnation: None,
            outgoing: Outgoing::idle(),
            incoming: None,
            publishing: false,
            retry_at: None,
            retry_pause: config.retry_min,
            answer_at: None,
            spoke_at: None,
        }
    }

    /// Whether nothing was sent to this peer, so that nothing sent is lost by giving it up.
    pub(super) fn is_idle(&self) -> bool {
        self.outgoing.generation == 0 && !self.publishing && self.queue.backlog() == Backlog::Empty
    }

    /// Takes in what the peer has published.
    pub(super) fn receive(
        &mut self,
        batch: Batch,
        now: Instant,
        node: &mut Node,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        if self.incarnation.is_some_and(|known| batch.incarnation < known) {
            node.counts.stale += 1;
            return;
        }
        self.end_cut_generation(now, node, deliveries);
        self.queue.heard(now);
        self.retry_at = None;
        self.retry_pause = node.config.retry_min;
        self.meet(batch.incarnation, now, node, deliveries);
        match batch.destination {
            Some(meant) if meant == node.incarnation => {}
            Some(meant) if meant > node.incarnation => {
                node.counts.misdirected += 1;
                return;
            }
            // Meant for an earlier run, or for whoever is here: the answer tells who that is.
            Some(_) => {
                node.counts.misdirected += 1;
                self.answer(now);
                return;
            }
            None => {
                self.answer(now);
                return;
            }
        }
        if let Some(acknowledged) = batch.acknowledged {
            self.take_acknowledgement(acknowledged, &batch, now, node, deliveries);
        }
        if batch.asks {
            self.answer(now);
        }
        if batch.generation != 0 {
            self.take_data(batch, now, node, deliveries);
        }
    }

    /// Notes which run of the peer is speaking. A new one has lost all that was sent to the one before.
    fn meet(
        &mut self,
        incarnation: Incarnation,
        now: Instant,
        node: &mut Node,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        if self.incarnation == Some(incarnation) {
            return;
        }
        if self.incarnation.replace(incarnation).is_some() {
            self.incoming = None;
            deliveries.push_back(Delivery::IncomingReset { from: self.name.clone(), incarnation });
            if self.outgoing.generation != 0 {
                self.reset_outgoing(now, node, deliveries);
            }
        }
    }

    fn take_acknowledgement(
        &mut self,
        acknowledged: Acknowledged,
        batch: &Batch,
        now: Instant,
        node: &mut Node,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        match self.outgoing.acknowledge(acknowledged, now, &node.config) {
            Progress::Acknowledged { bytes } => self.queue.acknowledged(bytes),
            Progress::Nothing => {}
            Progress::Lost => self.reset_outgoing(now, node, deliveries),
        }
        if acknowledged.generation == self.outgoing.generation {
            self.outgoing.miss(&batch.missing);
        }
    }

    fn take_data(
        &mut self,
        batch: Batch,
        now: Instant,
        node: &mut Node,
        deliveries: &mut VecDeque<Delivery>,
    ) {
        let Batch { incarnation, generation, top, .. } = batch;
        let known = self.incoming.as_ref().map(|incoming| incoming.generation);
        if known.is_some_and(|known| generation < known) {
            node.counts.stale += 1;
            return;
        }
        if known.is_some_and(|known| generation > known) {
            deliveries.push_back(Delivery::IncomingReset { from: self.name.clone(), incarnation });
        }
        if known != Some(generation) {
            self.incoming = Some(Incoming::adopt(generation, node.number(), &node.config));
        }
        let Some(incoming) = &mut self.incoming else { return };
        if let Some(data) = batch.data {
            let deliver = |messages| {
                let from = self.name.clone();
                deliveries.push_back(Delivery::Batch { from, incarnation, messages });
            };
            if !incoming.receive(data, now, &node.config, deliver) {
                node.counts.doubled += 1;
            }
        }
        incoming.published(top, now, &node.config);
    }

    fn answer(&mut self, now: Instant) {
        let earliest = self.spoke_at.map_or(now, |spoke| now.max(spoke + ANSWER_PAUSE));
        self.answer_at.get_or_insert(earliest);
    }

    /// Drops what is held for the peer and begins a new generation, of which the peer hears at once.
    fn reset_outgoing(&mut self, now: Instant, node: &mut Node, deliveries: &mut VecDeque<Delivery>) {
        self.queue.reset();
        self.outgoing = Outgoing::begin(node.number(), now, &node.config);
        let to = &self.name;
        let is_reported = deliveries
            .iter()
            .any(|waiting| matches!(waiting, Delivery::OutgoingReset { to: other } if other == to));
        if !is_reported {
            deliveries.push_back(Delivery::OutgoingReset { to: to.clone() });
        }
    }

    /// Ends the generation of a queue that was emptied under it.
    fn end_cut_generation(&mut self, now: Instant, node: &mut Node, deliveries: &mut VecDeque<Delivery>) {
        match self.queue.take_cut() {
            Some(Cut::Overflow) => self.reset_outgoing(now, node, deliveries),
            Some(Cut::Forgotten) => {
                self.outgoing = Outgoing::idle();
                if let Some(incoming) = &mut self.incoming {
                    incoming.forget_missing();
                }
            }
            None => {}
        }
    }

    /// Says what to publish now, if anything.
    pub(super) fn turn(
        &mut self,
        now: Instant,
        node: &mut Node,
        deliveries: &mut VecDeque<Delivery>,
    ) -> Option<Publish> {
        self.end_cut_generation(now, node, deliveries);
        if self.outgoing.generation == 0 && self.queue.backlog() != Backlog::Empty {
            let ask_at = if self.incarnation.is_some() { now + node.config.probe } else { now };
            self.outgoing = Outgoing::begin(node.number(), ask_at, &node.config);
        }
        if self.due_at(now, node).is_none_or(|due| due > now) {
            return None;
        }
        let data = if self.data_at(now, node).is_some_and(|at| at <= now) {
            self.next_data(now, node)
        } else {
            None
        };
        Some(self.speak(data, now, node))
    }

    /// When the next turn has something to do, if nothing else happens before.
    pub(super) fn due_at(&self, now: Instant, node: &Node) -> Option<Instant> {
        if self.publishing {
            return None;
        }
        let incoming = self.incoming.as_ref();
        let due = [
            self.data_at(now, node),
            self.outgoing.ask_at,
            self.answer_at,
            incoming.and_then(|incoming| incoming.acknowledge_at),
            incoming.and_then(|incoming| incoming.ask_at),
        ];
        let earliest = due.into_iter().flatten().min()?;
        Some(self.retry_at.map_or(earliest, |retry| earliest.max(retry)))
    }

    /// When the next batch of messages may leave. Nothing leaves before the peer has said which run of it is
    /// there: a message is meant for one run only.
    fn data_at(&self, now: Instant, node: &Node) -> Option<Instant> {
        self.incarnation?;
        if self.outgoing.must_repeat() {
            return Some(now);
        }
        if !self.outgoing.has_room(&node.config) {
            return None;
        }
        match self.queue.backlog() {
            Backlog::Empty => None,
            Backlog::Gathering => Some(self.outgoing.gathered_at(now, &node.config)),
            Backlog::Full => Some(now),
        }
    }

    fn next_data(&mut self, now: Instant, node: &Node) -> Option<Data> {
        match self.outgoing.repeat() {
            Some((data, repeated)) => {
                if repeated {
                    self.queue.resent();
                }
                Some(data)
            }
            None => {
                let messages = self.queue.take()?;
                Some(self.outgoing.publish(messages, now, &node.config))
            }
        }
    }

    /// Makes a batch of everything that is to be said now.
    fn speak(&mut self, data: Option<Data>, now: Instant, node: &Node) -> Publish {
        let config = &node.config;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let asks = is_due(self.outgoing.ask_at);
        if asks {
            self.outgoing.asked(self.incarnation.is_some(), now, config);
        }
        let mut missing = Vec::new();
        let mut acknowledged = None;
        if let Some(incoming) = &mut self.incoming {
            if is_due(incoming.ask_at) {
                missing = incoming.ask(now, config);
            }
            acknowledged = Some(incoming.acknowledge());
        }
        self.answer_at = None;
        self.spoke_at = Some(now);
        self.publishing = true;
        let generation = self.outgoing.generation;
        let carries = data.as_ref().map(|data| (generation, data.number));
        let batch = Batch {
            from: node.me.clone(),
            incarnation: node.incarnation,
            destination: self.incarnation,
            generation,
            top: self.outgoing.top(),
            asks,
            acknowledged,
            missing,
            data,
        };
        Publish { batch: batch.encode(), carries }
    }

    /// A publish has ended; `reached` says whether anyone was there.
    pub(super) fn published(
        &mut self,
        carries: Option<(u64, u64)>,
        reached: bool,
        now: Instant,
        config: &LinkConfig,
    ) {
        self.publishing = false;
        if reached {
            self.retry_pause = config.retry_min;
            return;
        }
        self.retry_at = Some(now + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(config.retry_max);
        if let Some((generation, number)) = carries {
            self.outgoing.failed(generation, number);
        }
    }
}
