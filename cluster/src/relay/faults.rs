//! How the embedded relay fails when a test or a simulation tells it to. Seeded: the same seed and the same
//! order of publishes give the same faults.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mlms_protocol::NodeName;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::Unavailable;
use crate::link::aged_batch;

/// How often batches are lost, doubled and late; chances from 0 to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRates {
    pub lose: f64,
    pub duplicate: f64,
    /// Chance that a copy is late by a random part of `delay`; late copies are overtaken.
    pub late: f64,
    pub delay: Range<Duration>,
}

impl Default for FaultRates {
    /// No faults.
    fn default() -> FaultRates {
        FaultRates { lose: 0.0, duplicate: 0.0, late: 0.0, delay: Duration::ZERO..Duration::ZERO }
    }
}

/// A handle by which faults are changed while the relay runs; clones steer the same relay.
#[derive(Clone)]
pub struct RelayFaults(Arc<Mutex<Plan>>);

struct Plan {
    random: SmallRng,
    rates: FaultRates,
    cut: BTreeSet<(NodeName, NodeName)>,
    isolated: BTreeSet<NodeName>,
    /// Nodes that pass for ones of the release before, and what that one makes of a message.
    older: Option<(BTreeSet<NodeName>, Ageing)>,
}

/// Gives a message as the release before would have written it, or as it reads it. `true`: it is the writer.
type Ageing = Arc<dyn Fn(&[u8], bool) -> Vec<u8> + Send + Sync>;

/// What becomes of one publish.
pub(super) enum Fate {
    /// The copies that arrive, each at once or late; possibly none.
    Copies(Vec<Option<Duration>>),
    /// Nobody is subscribed, and the publisher is told.
    Nobody,
}

impl Fate {
    pub(super) fn once() -> Fate {
        Fate::Copies(vec![None])
    }
}

impl RelayFaults {
    /// Makes a handle without faults yet, whose dice start at `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> RelayFaults {
        RelayFaults(Arc::new(Mutex::new(Plan {
            random: SmallRng::seed_from_u64(seed),
            rates: FaultRates::default(),
            cut: BTreeSet::new(),
            isolated: BTreeSet::new(),
            older: None,
        })))
    }

    /// Sets the rates for every pair of nodes from now on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.plan().rates = rates;
    }

    /// Loses silently what two nodes publish to each other, both ways.
    pub fn cut(&self, a: &NodeName, b: &NodeName) {
        self.plan().cut.insert(pair(a, b));
    }

    /// Ends a cut between two nodes.
    pub fn heal(&self, a: &NodeName, b: &NodeName) {
        self.plan().cut.remove(&pair(a, b));
    }

    /// Puts the relay out of a node's reach: its publishes fail, and publishes to it find no subscriber.
    pub fn isolate(&self, node: &NodeName) {
        self.plan().isolated.insert(node.clone());
    }

    /// Ends an isolation.
    pub fn reconnect(&self, node: &NodeName) {
        self.plan().isolated.remove(node);
    }

    /// Ends all cuts and isolations; the rates stay.
    pub fn heal_all(&self) {
        let mut plan = self.plan();
        plan.cut.clear();
        plan.isolated.clear();
    }

    /// Lets these nodes pass for ones of the release before on the relay: `message` says what that one makes of a message
    /// of theirs (`true`) or to them, and the version of their batches is one lower.
    pub fn set_older(
        &self,
        nodes: impl IntoIterator<Item = NodeName>,
        message: impl Fn(&[u8], bool) -> Vec<u8> + Send + Sync + 'static,
    ) {
        self.plan().older = Some((nodes.into_iter().collect(), Arc::new(message)));
    }

    /// A batch as it comes over, where one of the two passes for older.
    pub(super) fn aged(&self, from: &NodeName, to: &NodeName, batch: Bytes) -> Bytes {
        let plan = self.plan();
        let Some((nodes, message)) = &plan.older else { return batch };
        let writes = nodes.contains(from);
        if !writes && !nodes.contains(to) {
            return batch;
        }
        let message = Arc::clone(message);
        drop(plan);
        aged_batch(&batch, writes, |bytes| message(bytes, writes))
    }

    pub(super) fn fate(&self, from: &NodeName, to: &NodeName) -> Result<Fate, Unavailable> {
        let mut plan = self.plan();
        if plan.isolated.contains(from) {
            return Err(Unavailable("relay"));
        }
        if plan.isolated.contains(to) {
            return Ok(Fate::Nobody);
        }
        if plan.cut.contains(&pair(from, to)) {
            return Ok(Fate::Copies(Vec::new()));
        }
        let Plan { random, rates, .. } = &mut *plan;
        let copies = if chance(random, rates.duplicate) { 2 } else { 1 };
        let mut delays = Vec::with_capacity(copies);
        for _ in 0..copies {
            if chance(random, rates.lose) {
                continue;
            }
            let late = chance(random, rates.late) && !rates.delay.is_empty();
            delays.push(late.then(|| random.random_range(rates.delay.clone())));
        }
        Ok(Fate::Copies(delays))
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chance(random: &mut SmallRng, probability: f64) -> bool {
    probability > 0.0 && random.random_bool(probability.min(1.0))
}

/// A pair of nodes, whichever is named first.
fn pair(a: &NodeName, b: &NodeName) -> (NodeName, NodeName) {
    if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}
