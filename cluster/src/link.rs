//! A reliable, ordered link for each ordered pair of nodes over the lossy relay. One task a node numbers and
//! repeats what goes out and puts in order what comes in; callers hand over messages and never wait. What a
//! link cannot mend it reports as a reset, on both sides.

mod batch;
mod incoming;
mod outgoing;
mod peer;
mod queue;
mod shared;
mod task;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mlms_protocol::{Incarnation, NodeName};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::relay::Relay;

use batch::Messages;
pub(crate) use batch::aged_batch;
use shared::Shared;

/// How links gather, repeat and give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// How long messages gather into one batch under load; an idle link sends at once.
    pub gather: Duration,
    /// A batch that has grown to this leaves without waiting.
    pub batch_bytes_max: usize,
    /// What a link may hold for one peer, queued and not yet acknowledged; beyond it the link is reset.
    pub buffer_bytes_max: usize,
    /// Batches that may be under way to one peer without an acknowledgement; what comes behind gathers.
    pub window_batches_max: usize,
    /// How often a link in use, or one that waits for an acknowledgement, asks its peer for a sign.
    pub heartbeat: Duration,
    /// How often an idle link does.
    pub heartbeat_idle: Duration,
    /// How soon the first such question follows a batch that nobody acknowledges; it doubles up to `heartbeat`.
    pub probe: Duration,
    /// How long an acknowledgement waits for something that travels the same way.
    pub acknowledge: Duration,
    /// How soon a missing batch is asked for again; it doubles up to `heartbeat`.
    pub ask_again: Duration,
    /// The first pause after a publish that failed or reached nobody; it doubles up to `retry_max`.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// Batches that may wait for the reader of [`LinkEvents`]; beyond it the links take nothing from the inbox.
    pub events_max: usize,
    /// Peers that one node keeps; beyond it one is given up that was sent nothing and was silent for a minute.
    pub peers_max: usize,
    /// How long [`LinksHandle::stop`] goes on publishing what is still queued.
    pub stop: Duration,
}

impl Default for LinkConfig {
    fn default() -> LinkConfig {
        LinkConfig {
            gather: Duration::from_millis(1),
            batch_bytes_max: 64 * 1024,
            buffer_bytes_max: 4 * 1024 * 1024,
            window_batches_max: 256,
            heartbeat: Duration::from_millis(500),
            heartbeat_idle: Duration::from_secs(2),
            probe: Duration::from_millis(100),
            acknowledge: Duration::from_millis(20),
            ask_again: Duration::from_millis(50),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_millis(400),
            events_max: 64,
            peers_max: 4096,
            stop: Duration::from_secs(1),
        }
    }
}

/// The links of one node.
pub struct Links;

impl Links {
    /// Subscribes to the node's inbox and starts its links. The future is their task: the caller spawns and
    /// awaits it. It ends when all handles are dropped or one says [`LinksHandle::stop`].
    ///
    /// `incarnation` must be higher than that of any earlier run of the same node.
    pub fn start(
        me: NodeName,
        incarnation: Incarnation,
        relay: Relay,
        config: LinkConfig,
    ) -> (LinksHandle, LinkEvents, impl Future<Output = ()> + Send + use<>) {
        let (deliveries, incoming) = mpsc::channel(config.events_max.max(1));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new(&config));
        let inbox = relay.inbox(&me);
        let task = task::Task::new(me, incarnation, relay, inbox, config, Arc::clone(&shared), deliveries);
        let handle =
            LinksHandle { shared, stop: stop.clone(), _last_stops: Arc::new(stop.clone().drop_guard()) };
        (handle, LinkEvents { incoming, current: None }, task.run(stop))
    }
}

/// How often is looked whether everything has been acknowledged.
const ACKNOWLEDGED_AGAIN: Duration = Duration::from_millis(5);

/// Sends over the links; clones are the same links.
#[derive(Clone)]
pub struct LinksHandle {
    shared: Arc<Shared>,
    stop: CancellationToken,
    /// Dropping the last handle stops the task.
    _last_stops: Arc<DropGuard>,
}

impl LinksHandle {
    /// Queues a message for a node; never waits. When the peer has taken nothing for so long that
    /// `buffer_bytes_max` would be exceeded, the link drops what it holds and this message, starts anew and
    /// reports [`LinkEvent::OutgoingReset`].
    pub fn send(&self, to: &NodeName, payload: Bytes) {
        self.shared.send(to, &payload);
    }

    /// Gives up on a node that has left the directory: what is held for it is dropped without a report, and it
    /// hears no more heartbeats. Sending to it later starts anew; its own messages are still received.
    pub fn forget(&self, peer: &NodeName) {
        self.shared.forget(peer);
    }

    /// How long ago anything was heard from a node; `None` when nothing ever was.
    #[must_use]
    pub fn heard_ago(&self, peer: &NodeName) -> Option<Duration> {
        self.shared.heard_ago(peer)
    }

    /// The state of each link, by peer.
    #[must_use]
    pub fn stats(&self) -> Vec<LinkStats> {
        self.shared.stats()
    }

    /// Waits until the peers have everything that was sent to them. Without an end where one is gone: the caller sets it.
    pub async fn acknowledged(&self) {
        while self.stats().iter().any(|link| link.unacked_bytes > 0) {
            tokio::time::sleep(ACKNOWLEDGED_AGAIN).await;
        }
    }

    /// What the links of this node have ignored, lost and tried again, altogether.
    #[must_use]
    pub fn counts(&self) -> LinkCounts {
        self.shared.counts()
    }

    /// Ends the task, after one attempt to publish what is queued.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

/// One link as the status page and the metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStats {
    pub peer: NodeName,
    /// Bytes queued or sent and not yet acknowledged.
    pub unacked_bytes: usize,
    /// Batches published again.
    pub resent: u64,
    /// Times that something sent to the peer may have been lost.
    pub resets: u64,
    /// Milliseconds since anything was heard from the peer; `None` when nothing ever was.
    pub heard_ms_ago: Option<u64>,
}

/// Counts over all links of a node since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Batches of a format version that this release does not know.
    pub unknown_version: u64,
    /// Batches that are no batches.
    pub malformed: u64,
    /// Batches of an earlier run or generation of their sender.
    pub stale: u64,
    /// Batches meant for another run of this node.
    pub misdirected: u64,
    /// Batches that had been received already.
    pub doubled: u64,
    /// Batches from new peers while `peers_max` were in use.
    pub refused: u64,
    /// Publishes that failed.
    pub publish_failed: u64,
    /// Publishes that reached nobody.
    pub nobody: u64,
    /// Batches that the inbox dropped because it was full.
    pub inbox_dropped: u64,
}

/// What the links report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A message, exactly once and in order within one incarnation and generation of its sender. The payload
    /// shares the memory of its whole batch: copy what is kept for long.
    Received { from: NodeName, incarnation: Incarnation, payload: Bytes },
    /// Something that `from` sent may be missing from here on. The first contact is none; a new incarnation or
    /// generation of the sender is.
    IncomingReset { from: NodeName, incarnation: Incarnation },
    /// Something sent to `to` may be lost: it was restarted, or forgot, or the buffer did not reach.
    OutgoingReset { to: NodeName },
}

/// Where a node's links report, in order a peer. Bounded: while it is full, the links take nothing from the
/// inbox, and what is lost there is asked for again.
pub struct LinkEvents {
    incoming: mpsc::Receiver<Delivery>,
    current: Option<(NodeName, Incarnation, Messages)>,
}

impl LinkEvents {
    /// Waits for the next event; `None` once the task has ended and everything was read. Cancel safe.
    pub async fn recv(&mut self) -> Option<LinkEvent> {
        loop {
            if let Some((from, incarnation, messages)) = &mut self.current {
                if let Some(payload) = messages.next() {
                    return Some(LinkEvent::Received {
                        from: from.clone(),
                        incarnation: *incarnation,
                        payload,
                    });
                }
                self.current = None;
            }
            match self.incoming.recv().await? {
                Delivery::Batch { from, incarnation, messages } => {
                    self.current = Some((from, incarnation, messages));
                }
                Delivery::IncomingReset { from, incarnation } => {
                    return Some(LinkEvent::IncomingReset { from, incarnation });
                }
                Delivery::OutgoingReset { to } => return Some(LinkEvent::OutgoingReset { to }),
            }
        }
    }
}

/// Events on their way to the reader; a batch's messages are taken apart only there.
#[derive(Debug)]
enum Delivery {
    Batch { from: NodeName, incarnation: Incarnation, messages: Messages },
    IncomingReset { from: NodeName, incarnation: Incarnation },
    OutgoingReset { to: NodeName },
}

#[cfg(test)]
mod tests;
