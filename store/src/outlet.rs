//! Where an archive's events go once they are in the database.

use std::sync::Arc;

use mlms_protocol::{LobbyEvent, TraceParent};
use tokio::sync::{mpsc, oneshot};

use crate::amqp::Publisher;
use crate::message::Message;

/// Batches that may wait for the consumer of the same process.
const LOCAL_MAX: usize = 16;

/// The way out for domain events. Clones lead to the same place.
#[derive(Debug, Clone)]
pub enum Outlet {
    /// Nobody wants them.
    None,
    /// Over AMQP, to whoever subscribed.
    Amqp(Publisher),
    /// To the consumer of the same process, which answers when it has taken them for good.
    Local(mpsc::Sender<LocalBatch>),
}

/// Events on their way to the consumer of the same process.
#[derive(Debug)]
pub struct LocalBatch {
    pub events: Vec<Arc<LobbyEvent>>,
    /// Of events that are traced, by their place.
    pub traces: Vec<(usize, TraceParent)>,
    /// To be answered when the events are taken; dropped, they come again.
    pub taken: oneshot::Sender<()>,
}

impl Outlet {
    /// An outlet to a consumer of the same process.
    #[must_use]
    pub fn local() -> (Outlet, mpsc::Receiver<LocalBatch>) {
        let (sender, receiver) = mpsc::channel(LOCAL_MAX);
        (Outlet::Local(sender), receiver)
    }

    /// Whether anybody wants events.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self, Outlet::None)
    }

    /// Hands events on, and returns when they are taken for good. `false`: they are not, and must be handed on again.
    /// `traces` are those of events that are traced, by their place.
    pub async fn publish(&self, events: Vec<Arc<LobbyEvent>>, traces: Vec<(usize, TraceParent)>) -> bool {
        match self {
            Outlet::None => true,
            Outlet::Amqp(publisher) => {
                let mut messages: Vec<_> = events.iter().map(|event| Message::of_event(event)).collect();
                for (place, trace) in traces {
                    if let Some(message) = messages.get_mut(place) {
                        message.trace = Some(trace);
                    }
                }
                publisher.publish(messages).await
            }
            Outlet::Local(consumer) => {
                let (taken, answer) = oneshot::channel();
                consumer.send(LocalBatch { events, traces, taken }).await.is_ok() && answer.await.is_ok()
            }
        }
    }
}
