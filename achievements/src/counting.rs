//! Takes events, counts them, and awards what they have earned. An event is acknowledged only when both stand in the
//! database; one that comes again counts nothing, but what it may have earned is looked at again.

use std::collections::BTreeMap;
use std::time::Duration;

use mlms_process::health::Component;
use mlms_process::trace::{Kind, Span, Tracer};
use mlms_protocol::{Millis, TraceParent, UserId};
use mlms_store::amqp::{AmqpError, Subscriber, Subscription};
use mlms_store::{Award, GAME_KINDS, GameEvent, LocalBatch, Store, StoreError};
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::{Input, QUEUE};

/// Events handed out by the message broker and not yet acknowledged.
const PREFETCH: u16 = 500;
/// Events counted in one transaction.
const BATCH: usize = 250;
/// Pause after something failed.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Counter {
    pub(crate) store: Store,
    pub(crate) rules: Rules,
    pub(crate) metrics: Metrics,
    pub(crate) health: Component,
    /// Told when there is a new award.
    pub(crate) wake: mpsc::Sender<()>,
    pub(crate) tracer: Tracer,
}

impl Counter {
    pub(crate) async fn run(&self, input: Input) {
        match input {
            Input::Amqp(url) => self.follow(&url).await,
            Input::Local(batches) => self.take_local(batches).await,
        }
    }

    async fn take_local(&self, mut batches: mpsc::Receiver<LocalBatch>) {
        self.health.ok();
        while let Some(LocalBatch { events, traces, taken }) = batches.recv().await {
            let _spans = self.trace(traces.iter().map(|(_, trace)| trace));
            let games: Vec<_> = events.iter().filter_map(|event| GameEvent::of(event)).collect();
            for part in games.chunks(BATCH) {
                self.take(part).await;
            }
            // An archive that is gone hands its events on again elsewhere.
            let _ = taken.send(());
        }
    }

    /// Takes events from the message broker, for ever.
    async fn follow(&self, url: &str) {
        let wanted = Subscription {
            queue: QUEUE.to_owned(),
            keys: GAME_KINDS.map(|kind| format!("lobby.{kind}")).to_vec(),
            prefetch: PREFETCH,
            // Events of a lobby must come in order.
            alone: true,
            forget_after_ms: None,
        };
        let mut is_down = false;
        loop {
            let error = match Subscriber::open(url, "mlms achievements", &wanted).await {
                Ok(mut subscriber) => {
                    self.health.ok();
                    is_down = false;
                    tracing::info!("counting domain events");
                    self.take_delivered(&mut subscriber).await
                }
                Err(error) => error,
            };
            self.metrics.failures.with_label_values(&["amqp"]).inc();
            if !std::mem::replace(&mut is_down, true) {
                tracing::warn!(%error, "domain events wait in their queue");
            }
            self.health.degraded(error.to_string());
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn take_delivered(&self, subscriber: &mut Subscriber) -> AmqpError {
        loop {
            let batch = match subscriber.next(BATCH).await {
                Ok(batch) => batch,
                Err(error) => return error,
            };
            let _spans = self.trace(batch.iter().filter_map(|delivery| delivery.trace.as_ref()));
            let mut games = Vec::new();
            for delivery in &batch {
                match GameEvent::read(&delivery.body) {
                    Ok(event) => games.extend(event),
                    Err(why) => {
                        // It would come again for ever; the event store has what it was made of.
                        self.metrics.events.with_label_values(&["unreadable"]).inc();
                        tracing::error!(
                            id = delivery.id,
                            why,
                            "a domain event cannot be read and is passed over"
                        );
                    }
                }
            }
            self.take(&games).await;
            if let Some(last) = batch.last()
                && let Err(error) = subscriber.acknowledge(last).await
            {
                return error;
            }
        }
    }

    /// Spans of events that are traced; they end with the batch.
    fn trace<'a>(&self, traces: impl Iterator<Item = &'a TraceParent>) -> Vec<Span> {
        traces.filter_map(|parent| self.tracer.span("achievements.count", Kind::Consumer, parent)).collect()
    }

    /// Counts events and awards what they have earned; does not give up.
    async fn take(&self, games: &[GameEvent]) {
        if games.is_empty() {
            return;
        }
        let mut is_down = false;
        loop {
            let error = match self.try_to_take(games).await {
                Ok(()) => {
                    if is_down {
                        self.health.ok();
                        tracing::info!("the database counts again");
                    }
                    return;
                }
                Err(error) => error,
            };
            self.metrics.failures.with_label_values(&["store"]).inc();
            if !std::mem::replace(&mut is_down, true) {
                tracing::warn!(%error, "games cannot be counted; tried again until they are");
            }
            self.health.degraded(error.to_string());
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_to_take(&self, games: &[GameEvent]) -> Result<(), StoreError> {
        let counted = self.store.fold(games).await?;
        let mut players: BTreeMap<&UserId, Millis> = BTreeMap::new();
        for game in games {
            for user in game.players() {
                let at = players.entry(user).or_insert(game.at);
                *at = game.at.max(*at);
            }
        }
        for (user, at) in players {
            self.award(user, at).await?;
        }
        let counted = counted.min(games.len() as u64);
        self.metrics.events.with_label_values(&["counted"]).inc_by(counted);
        self.metrics.events.with_label_values(&["repeated"]).inc_by(games.len() as u64 - counted);
        Ok(())
    }

    /// Awards a player what is earned and not yet awarded.
    async fn award(&self, user: &UserId, at: Millis) -> Result<(), StoreError> {
        let statistics = self.store.statistics(user).await?;
        let mut earned = self.rules.earned(&statistics).peekable();
        if earned.peek().is_none() {
            return Ok(());
        }
        let has = self.store.awards(user).await?;
        for rule in earned.filter(|rule| has.iter().all(|award| award.achievement != rule.achievement)) {
            let award = Award { user: user.clone(), achievement: rule.achievement.clone(), at };
            if self.store.add_award(&award).await? {
                self.metrics.awards.inc();
                tracing::info!(user = %award.user, achievement = award.achievement, "awarded");
                // Full: it is woken already.
                let _ = self.wake.try_send(());
            }
        }
        Ok(())
    }
}
