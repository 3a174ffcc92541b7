//! The relay over pub/sub. One reader takes everything from the subscriber's connection and puts it into the
//! inboxes; one reconciler subscribes again and again, because a lost subscription is told by nobody.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{EventInterface, PubsubInterface};
use fred::types::{Message, Value};
use futures_util::future::BoxFuture;
use mlms_protocol::NodeName;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::directory::RedisDirectory;
use super::keys::Keys;
use crate::Unavailable;
use crate::relay::Mailbox;

/// How often all subscriptions are asked for again, whether or not anything is known to be wrong.
const RECONCILE: Duration = Duration::from_secs(2);
/// Pause after subscribing failed.
const RETRY: Duration = Duration::from_millis(200);

/// The relay's side of the connections to Redis.
pub(crate) struct RedisRelay {
    publisher: Client,
    keys: Arc<Keys>,
    is_cluster: bool,
    /// By channel.
    mailboxes: Mutex<HashMap<String, Arc<Mailbox>>>,
    /// An inbox has come or gone.
    changed: Notify,
}

impl RedisRelay {
    pub(super) fn new(publisher: Client, keys: Arc<Keys>, is_cluster: bool) -> Self {
        RedisRelay { publisher, keys, is_cluster, mailboxes: Mutex::default(), changed: Notify::new() }
    }

    fn mailboxes(&self) -> MutexGuard<'_, HashMap<String, Arc<Mailbox>>> {
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self, node: &NodeName, mailbox: Arc<Mailbox>) -> Option<Arc<Mailbox>> {
        let older = self.mailboxes().insert(self.keys.inbox(node), mailbox);
        self.changed.notify_one();
        older
    }

    pub(crate) fn unsubscribe(&self, node: &NodeName, mailbox: &Arc<Mailbox>) {
        let channel = self.keys.inbox(node);
        let mut mailboxes = self.mailboxes();
        if mailboxes.get(&channel).is_some_and(|current| Arc::ptr_eq(current, mailbox)) {
            mailboxes.remove(&channel);
            self.changed.notify_one();
        }
    }

    pub(crate) fn publish<'a>(
        &'a self,
        to: &'a NodeName,
        batch: Bytes,
    ) -> BoxFuture<'a, Result<usize, Unavailable>> {
        Box::pin(async move {
            publish(&self.publisher, self.is_cluster, self.keys.inbox(to), batch.into()).await.map_err(
                |error| {
                    tracing::debug!(%to, %error, "a batch could not be published");
                    Unavailable("the relay")
                },
            )
        })
    }

    /// Reads and reconciles until told to stop.
    pub(super) async fn run(
        &self,
        subscriber: &Client,
        directory: &RedisDirectory,
        stop: &CancellationToken,
    ) {
        tokio::select! {
            () = self.read(subscriber, directory) => {}
            () = self.reconcile(subscriber, directory) => {}
            () = stop.cancelled() => {}
        }
        for (_, mailbox) in self.mailboxes().drain() {
            mailbox.close();
        }
    }

    async fn read(&self, subscriber: &Client, directory: &RedisDirectory) {
        let mut messages = subscriber.message_rx();
        let changes = self.keys.changes();
        loop {
            match messages.recv().await {
                Ok(Message { channel, value, .. }) => {
                    if *channel == changes {
                        directory.on_change(&value.as_str_lossy().unwrap_or_default());
                        continue;
                    }
                    let Some(batch) = value.into_bytes() else { continue };
                    let mailbox = self.mailboxes().get(&*channel).cloned();
                    if let Some(mailbox) = mailbox {
                        mailbox.put(batch);
                    }
                }
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(
                        lost,
                        "the relay's reader was overtaken; the links ask for what is missing"
                    );
                    for mailbox in self.mailboxes().values() {
                        mailbox.count_dropped(lost);
                    }
                    directory.look();
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn reconcile(&self, subscriber: &Client, directory: &RedisDirectory) {
        let (mut reconnects, mut moves) = (subscriber.reconnect_rx(), subscriber.cluster_change_rx());
        let mut held: BTreeSet<String> = BTreeSet::new();
        let (mut failures, mut has_missed): (u32, bool) = (0, false);
        loop {
            let mut wanted: BTreeSet<String> = self.mailboxes().keys().cloned().collect();
            wanted.insert(self.keys.changes());
            let outcome = self.adjust(subscriber, &wanted, &held).await;
            let pause = match outcome {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!("subscribed again");
                    }
                    if has_missed || failures > 0 {
                        directory.look();
                    }
                    (failures, has_missed) = (0, false);
                    held = wanted;
                    RECONCILE
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!(%error, "subscribing failed; it is tried until it succeeds");
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
                // Whether told or overtaken, the answer is the same.
                _ = reconnects.recv() => has_missed = true,
                _ = moves.recv() => has_missed = true,
            }
        }
    }

    /// Subscribing to what is subscribed is harmless, and the only way to be sure of it.
    async fn adjust(
        &self,
        subscriber: &Client,
        wanted: &BTreeSet<String>,
        held: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let gone: Vec<String> = held.difference(wanted).cloned().collect();
        if self.is_cluster {
            // Channels of several slots do not go into one command.
            for channel in wanted {
                subscriber.ssubscribe(channel.as_str()).await?;
            }
            for channel in gone {
                subscriber.sunsubscribe(channel).await?;
            }
        } else {
            subscriber.subscribe(wanted.iter().cloned().collect::<Vec<_>>()).await?;
            if !gone.is_empty() {
                subscriber.unsubscribe(gone).await?;
            }
        }
        Ok(())
    }
}

/// Publishes and says how many subscribers there were.
pub(super) async fn publish(
    client: &Client,
    is_cluster: bool,
    channel: String,
    message: Value,
) -> Result<usize, Error> {
    if is_cluster { client.spublish(channel, message).await } else { client.publish(channel, message).await }
}
