//! Lossy publish and subscribe between nodes: one inbox a node, batches of bytes, no promise that one arrives,
//! arrives once, or arrives in order. `link` makes a reliable road of it. It is Redis pub/sub, or lives in one
//! process and can be told to fail.

mod faults;
mod inbox;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mlms_protocol::NodeName;
use tokio::time::Instant;

use crate::Unavailable;
use crate::redis::{Lifeline, RedisRelay};

pub use faults::{FaultRates, RelayFaults};
pub use inbox::Inbox;

pub(crate) use inbox::Mailbox;

/// The relay of all nodes; clones are the same relay.
#[derive(Clone)]
pub struct Relay(Kind);

#[derive(Clone)]
enum Kind {
    Embedded(Arc<Embedded>),
    Redis(Arc<RedisRelay>, #[expect(dead_code, reason = "acts when it is dropped")] Lifeline),
}

/// The mailboxes of all nodes in this process.
struct Embedded {
    mailboxes: Mutex<HashMap<NodeName, Arc<Mailbox>>>,
    faults: Option<RelayFaults>,
}

impl Relay {
    /// Makes a relay for all nodes of this process. With `faults` it loses, doubles, delays and cuts as told.
    #[must_use]
    pub fn embedded(faults: Option<RelayFaults>) -> Relay {
        Relay(Kind::Embedded(Arc::new(Embedded { mailboxes: Mutex::default(), faults })))
    }

    pub(crate) fn redis(relay: Arc<RedisRelay>, lifeline: Lifeline) -> Relay {
        Relay(Kind::Redis(relay, lifeline))
    }

    /// Subscribes to a node's inbox. A later subscription for the same node (a restart) in this process replaces
    /// this one, whose `recv` then ends; one in another process does not, and both receive.
    #[must_use]
    pub fn inbox(&self, node: &NodeName) -> Inbox {
        let mailbox = Arc::new(Mailbox::default());
        let older = match &self.0 {
            Kind::Embedded(embedded) => embedded.mailboxes().insert(node.clone(), Arc::clone(&mailbox)),
            Kind::Redis(redis, _) => redis.subscribe(node, Arc::clone(&mailbox)),
        };
        if let Some(older) = older {
            older.close();
        }
        Inbox::new(self.clone(), node.clone(), mailbox)
    }

    /// Publishes a batch to a node's inbox and says how many subscribers there were. More than none is no
    /// promise that it arrives.
    ///
    /// # Errors
    /// [`Unavailable`] when the relay did not take it; it may still arrive.
    pub async fn publish(&self, from: &NodeName, to: &NodeName, batch: Bytes) -> Result<usize, Unavailable> {
        // A publisher with a long backlog gives way to the others of its thread now and then.
        tokio::task::coop::consume_budget().await;
        match &self.0 {
            Kind::Embedded(embedded) => embedded.publish(from, to, batch),
            Kind::Redis(redis, _) => redis.publish(to, batch).await,
        }
    }

    /// Ends a subscription, unless a newer one has replaced it.
    fn unsubscribe(&self, node: &NodeName, mailbox: &Arc<Mailbox>) {
        match &self.0 {
            Kind::Embedded(embedded) => embedded.unsubscribe(node, mailbox),
            Kind::Redis(redis, _) => redis.unsubscribe(node, mailbox),
        }
    }
}

impl Embedded {
    fn mailboxes(&self) -> MutexGuard<'_, HashMap<NodeName, Arc<Mailbox>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsubscribe(&self, node: &NodeName, mailbox: &Arc<Mailbox>) {
        let mut mailboxes = self.mailboxes();
        if mailboxes.get(node).is_some_and(|current| Arc::ptr_eq(current, mailbox)) {
            mailboxes.remove(node);
        }
    }

    fn publish(&self, from: &NodeName, to: &NodeName, batch: Bytes) -> Result<usize, Unavailable> {
        let copies = match &self.faults {
            None => faults::Fate::once(),
            Some(faults) => faults.fate(from, to)?,
        };
        let faults::Fate::Copies(delays) = copies else { return Ok(0) };
        let batch = match &self.faults {
            None => batch,
            Some(faults) => faults.aged(from, to, batch),
        };
        let Some(mailbox) = self.mailboxes().get(to).cloned() else { return Ok(0) };
        for delay in delays {
            match delay {
                None => mailbox.put(batch.clone()),
                Some(delay) => mailbox.put_at(Instant::now() + delay, batch.clone()),
            }
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests;
