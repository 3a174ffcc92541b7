//! Domain events and achievements in a process: the way out, the service that counts, and the way of awards to players.

use std::sync::Arc;

use anyhow::Context;
use mlms_achievements::{Achievements, Announce, Input, Rules};
use mlms_lobby_node::Announcer;
use mlms_process::Settings;
use mlms_process::health::Component;
use mlms_store::amqp::{LinkState, Publisher, QueueLook, Subscriber, Subscription};
use mlms_store::{AWARDED, Award, LocalBatch, Outlet, Store, read_award};
use secrecy::ExposeSecret;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::frame::Frame;

/// The durable queue of awards that nodes tell their players.
const AWARDS_QUEUE: &str = "mlms.awards";
/// An award that no node could tell in this time is only read, over REST.
const AWARDS_FORGET_MS: u32 = 3_600_000;
/// Awards taken at once.
const AWARDS_PREFETCH: u16 = 100;
/// Pause after the message broker was away.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
/// Pause between looks at the queue of the service that counts.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);
/// Events that may wait there before it counts as late.
const WAITING_MAX: u32 = 10_000;

/// The url of the message broker, if the settings name one.
pub(crate) fn amqp_url(settings: &Settings) -> Option<String> {
    settings.amqp_url.as_ref().map(|url| url.expose_secret().to_owned())
}

impl Frame {
    /// Starts a publisher, and reports how it is.
    pub(crate) fn start_publisher(&mut self, url: &str, name: &str) -> anyhow::Result<Publisher> {
        let (publisher, task) = Publisher::new(url, name).context("amqp.url")?;
        let component = self.health.component("amqp");
        self.tasks.spawn("amqp", task);
        self.tasks.spawn("amqp health", report(publisher.state(), component));
        Ok(publisher)
    }

    /// Tells the players of a node's cluster of awards that come over the message broker. `counting` is told how the
    /// service that counts is, where that is another process.
    pub(crate) fn start_awards(&mut self, url: String, announcer: Announcer, counting: Option<Component>) {
        let stop = self.shutdown.drain().clone();
        self.tasks.spawn("awards", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = take_awards(&url, &announcer, counting.as_ref()) => {}
            }
        });
    }

    /// Starts the service that counts, fed by the message broker.
    pub(crate) fn start_achievements(
        &mut self,
        store: &Store,
        url: String,
        publisher: Publisher,
    ) -> anyhow::Result<()> {
        let stop = self.shutdown.drain().clone();
        self.spawn_achievements(store, Input::Amqp(url), Announce::Amqp(publisher), stop)
    }

    /// Starts the service that counts, fed by the nodes of this process. It ends behind them.
    pub(crate) fn start_local_achievements(
        &mut self,
        store: &Store,
        batches: mpsc::Receiver<LocalBatch>,
        announcers: Vec<Announcer>,
        nodes_ended: CancellationToken,
    ) -> anyhow::Result<()> {
        let tell = move |award: &Award| {
            // One of them reaches all.
            if let Some(announcer) = announcers.first() {
                announcer.announce(award);
            }
        };
        self.spawn_achievements(store, Input::Local(batches), Announce::Local(Arc::new(tell)), nodes_ended)
    }

    fn spawn_achievements(
        &mut self,
        store: &Store,
        input: Input,
        announce: Announce,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let health = self.health.component("achievements");
        let health = if matches!(input, Input::Local(_)) { health.embedded() } else { health };
        let service = Achievements {
            tracer: self.tracer.clone(),
            store: store.clone(),
            rules: Rules::load(self.settings.achievement_rules.as_deref())?,
            input,
            announce,
            registry: self.metrics.registry().clone(),
            health,
            stop,
        };
        self.tasks.spawn("achievements", service.run());
        Ok(())
    }
}

/// The way out of a role's nodes.
pub(crate) fn outlet(publisher: Option<&Publisher>) -> Outlet {
    publisher.map_or(Outlet::None, |publisher| Outlet::Amqp(publisher.clone()))
}

async fn report(mut state: watch::Receiver<LinkState>, component: Component) {
    loop {
        match &*state.borrow_and_update() {
            LinkState::Connecting => component.degraded("connecting"),
            LinkState::Up => component.ok(),
            LinkState::Down(cause) => component.degraded(cause.clone()),
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// Takes awards, for ever.
async fn take_awards(url: &str, announcer: &Announcer, counting: Option<&Component>) {
    let wanted = Subscription {
        queue: AWARDS_QUEUE.to_owned(),
        keys: vec![AWARDED.to_owned()],
        prefetch: AWARDS_PREFETCH,
        alone: false,
        forget_after_ms: Some(AWARDS_FORGET_MS),
    };
    loop {
        if let Err(error) = take_some_awards(url, &wanted, announcer, counting).await {
            // The publisher of the same process says so, once.
            tracing::debug!(%error, "awards wait in their queue");
            if let Some(counting) = counting {
                counting.degraded("nothing is known of it while the message broker is away");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take_some_awards(
    url: &str,
    wanted: &Subscription,
    announcer: &Announcer,
    counting: Option<&Component>,
) -> anyhow::Result<()> {
    let mut subscriber = Subscriber::open(url, "mlms awards", wanted).await?;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            batch = subscriber.next(usize::from(AWARDS_PREFETCH)) => batch?,
            _ = look.tick(), if counting.is_some() => {
                let seen = subscriber.look_at(mlms_achievements::QUEUE).await?;
                counting.into_iter().for_each(|counting| tell(counting, seen));
                continue;
            }
        };
        for delivery in &batch {
            match read_award(&delivery.body) {
                Ok(award) => announcer.announce(&award),
                Err(why) => tracing::error!(id = delivery.id, why, "an award cannot be read"),
            }
        }
        if let Some(last) = batch.last() {
            subscriber.acknowledge(last).await?;
        }
    }
}

/// The service that counts has no address: its queue tells whether it is there and keeps up.
fn tell(counting: &Component, queue: Option<QueueLook>) {
    match queue {
        None => counting.down("it was never there: its queue is not"),
        Some(QueueLook { consumers: 0, waiting }) => {
            counting.down(format!("nobody takes events off its queue, where {waiting} wait"));
        }
        Some(QueueLook { waiting: WAITING_MAX.., .. }) => {
            counting.degraded("it does not keep up: thousands of events wait in its queue");
        }
        Some(_) => counting.ok(),
    }
}
