//! Folds domain events into players' statistics, and awards achievements by rules that are data. The store makes
//! each event count once; nothing here depends on how often or from where an event comes.

mod announcing;
mod counting;
mod metrics;
mod replay;
mod rules;

use mlms_process::health::Component;
use mlms_process::trace::Tracer;
use mlms_store::{LocalBatch, Store};
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use announcing::Announce;
pub use replay::{Progress, replay};
pub use rules::{Measure, Rule, Rules, RulesError};

/// The durable queue of the events that count.
pub const QUEUE: &str = "mlms.achievements";

/// Where events come from.
#[derive(Debug)]
pub enum Input {
    /// A url of the message broker.
    Amqp(String),
    /// The archives of the same process.
    Local(mpsc::Receiver<LocalBatch>),
}

/// What the service is made of.
#[derive(Debug)]
pub struct Achievements {
    pub store: Store,
    pub rules: Rules,
    pub input: Input,
    pub announce: Announce,
    /// Takes the spans of events that are traced.
    pub tracer: Tracer,
    pub registry: Registry,
    pub health: Component,
    /// Ends the service; what is not acknowledged comes again.
    pub stop: CancellationToken,
}

impl Achievements {
    /// Runs until it is told to stop, or its input ends.
    pub async fn run(self) {
        let Achievements { store, rules, input, announce, tracer, registry, health, stop } = self;
        let metrics = metrics::Metrics::new(&registry);
        let (wake, woken) = mpsc::channel(1);
        let counter =
            counting::Counter { store: store.clone(), rules, metrics: metrics.clone(), health, wake, tracer };
        let counting = async {
            tokio::select! {
                () = stop.cancelled() => {}
                // Boxed, as below: the layout of what waits on a database inside a transaction nests deep.
                () = Box::pin(counter.run(input)) => {}
            }
            drop(counter);
        };
        let announcing = Box::pin(announcing::run(store, announce, metrics, woken, stop.clone()));
        tokio::join!(counting, announcing);
    }
}
