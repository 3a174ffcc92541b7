//! Links over a relay that is told to fail, under a paused clock.

mod format;
mod simulation;
mod stories;
mod throughput;

use std::time::Duration;

use bytes::Bytes;
use mlms_protocol::{Incarnation, NodeName};
use tokio::task::JoinHandle;

use super::{LinkConfig, LinkEvent, LinkEvents, Links, LinksHandle};
use crate::relay::Relay;

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

/// One run of a node, whose events are read by the test.
struct Node {
    name: NodeName,
    links: LinksHandle,
    events: LinkEvents,
    task: JoinHandle<()>,
}

impl Node {
    fn start(relay: &Relay, name: &NodeName, incarnation: u64, config: LinkConfig) -> Node {
        let (links, events, task) =
            Links::start(name.clone(), Incarnation(incarnation), relay.clone(), config);
        Node { name: name.clone(), links, events, task: tokio::spawn(task) }
    }

    fn say(&self, to: &Node, text: &str) {
        self.links.send(&to.name, Bytes::copy_from_slice(text.as_bytes()));
    }

    /// The next event; fails when nothing happens for a (virtual) minute.
    async fn next(&mut self) -> LinkEvent {
        let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await;
        event.expect("an event within a minute").expect("the links live")
    }

    async fn hears(&mut self, from: &Node, expected: &str) {
        match self.next().await {
            LinkEvent::Received { from: sender, payload, .. } => {
                assert_eq!((sender, &payload[..]), (from.name.clone(), expected.as_bytes()));
            }
            other => panic!("expected {expected:?}, got {other:?}"),
        }
    }

    /// Nothing is reported for a while.
    async fn hears_nothing_for(&mut self, span: Duration) {
        if let Ok(event) = tokio::time::timeout(span, self.events.recv()).await {
            panic!("unexpected {event:?}");
        }
    }

    fn unacked(&self) -> usize {
        self.links.stats().iter().map(|link| link.unacked_bytes).sum()
    }

    fn resets(&self) -> u64 {
        self.links.stats().iter().map(|link| link.resets).sum()
    }

    /// Ends the run as a crash does: nothing more is said.
    fn kill(self) {
        self.task.abort();
    }
}
