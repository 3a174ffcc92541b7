//! What the embedded cluster can be told to do wrong, repeatably from a seed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mlms_protocol::NodeName;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::journal::AppendError;
use crate::relay::RelayFaults;

/// A plan of faults; every clone steers the same one. Chances are in parts of a thousand.
#[derive(Clone)]
pub struct Faults(Arc<Plan>);

struct Plan {
    random: Mutex<StdRng>,
    relay: RelayFaults,
    /// Directory and journal answer nobody.
    down: AtomicBool,
    /// An append is taken, but its answer is lost.
    answer_lost: AtomicU32,
    /// An append is not taken, and nothing says so.
    append_lost: AtomicU32,
    /// Longest time an append takes, in milliseconds.
    append_ms_max: AtomicU32,
    /// Told each time when a new owner does not find what its predecessor answered for.
    too_early: Mutex<Option<Told>>,
    /// Told each time when an append of a deposed owner goes through.
    unfenced: Mutex<Option<Told>>,
    /// Nodes that see nothing of the directory.
    blind: Mutex<BTreeSet<NodeName>>,
    /// Nodes whose entries and snapshots look as if the release before had written them.
    older: Mutex<BTreeSet<NodeName>>,
}

type Told = Box<dyn Fn() + Send>;

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

impl Faults {
    /// A plan without faults yet.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Faults(Arc::new(Plan {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            relay: RelayFaults::seeded(seed ^ 0x5eed),
            down: AtomicBool::new(false),
            answer_lost: AtomicU32::new(0),
            append_lost: AtomicU32::new(0),
            append_ms_max: AtomicU32::new(0),
            too_early: Mutex::default(),
            unfenced: Mutex::default(),
            blind: Mutex::default(),
            older: Mutex::default(),
        }))
    }

    /// The faults of the relay.
    #[must_use]
    pub fn relay(&self) -> RelayFaults {
        self.0.relay.clone()
    }

    /// Takes directory and journal out of reach, or back.
    pub fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::Relaxed);
    }

    /// Sets the chances (‰) that an append's answer, or the append itself, is lost, and its longest duration.
    pub fn set_journal(&self, answer_lost: u32, append_lost: u32, append_ms_max: u32) {
        self.0.answer_lost.store(answer_lost, Ordering::Relaxed);
        self.0.append_lost.store(append_lost, Ordering::Relaxed);
        self.0.append_ms_max.store(append_ms_max, Ordering::Relaxed);
    }

    /// From now on the journal answers before it has written: a new owner does not find the last entries, and `told`
    /// is called. This breaks the journal's promise, for tests of those who have to notice.
    pub fn answer_before_append(&self, told: impl Fn() + Send + 'static) {
        *self.0.too_early.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(told));
    }

    /// From now on the journal takes appends from everybody, owner or not, wherever the log ends; `told` is called for
    /// each of somebody who is not. This breaks the journal's promise, for tests of those who have to notice.
    pub fn skip_fence(&self, told: impl Fn() + Send + 'static) {
        *self.0.unfenced.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(told));
    }

    /// Whether appends are taken from everybody; `by_other`: this one comes from somebody who is not the owner.
    pub(super) fn skips_fence(&self, by_other: bool) -> bool {
        let told = self.0.unfenced.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = told.as_ref() else { return false };
        if by_other {
            told();
        }
        true
    }

    /// Takes the directory, not the journal, out of this node's reach, or back.
    pub fn set_blind(&self, node: &NodeName, blind: bool) {
        let mut nodes = self.0.blind.lock().unwrap_or_else(PoisonError::into_inner);
        if blind {
            nodes.insert(node.clone());
        } else {
            nodes.remove(node);
        }
    }

    pub(super) fn is_blind(&self, node: &NodeName) -> bool {
        self.0.blind.lock().unwrap_or_else(PoisonError::into_inner).contains(node)
    }

    /// Lets this node pass for one of the release before, or no more: the first byte of what it writes, the format's
    /// version, is one lower.
    pub fn set_older(&self, node: &NodeName, older: bool) {
        let mut nodes = self.0.older.lock().unwrap_or_else(PoisonError::into_inner);
        if older {
            nodes.insert(node.clone());
        } else {
            nodes.remove(node);
        }
    }

    /// What a node writes, as others find it.
    pub(super) fn written_by(&self, node: &NodeName, bytes: &Bytes) -> Bytes {
        let is_older = self.0.older.lock().unwrap_or_else(PoisonError::into_inner).contains(node);
        match bytes.split_first() {
            Some((version, rest)) if is_older => [&[version - 1], rest].concat().into(),
            _ => bytes.clone(),
        }
    }

    /// How many of the last entries are lost to a new owner who finds `count` of them.
    pub(super) fn lost_at_claim(&self, count: usize) -> usize {
        let told = self.0.too_early.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(told) = told.as_ref().filter(|_| count > 1) else { return 0 };
        told();
        1
    }

    pub(super) fn is_down(&self) -> bool {
        self.0.down.load(Ordering::Relaxed)
    }

    fn roll(&self, below: u32) -> u32 {
        let mut random = self.0.random.lock().expect("no holder of the random numbers panics");
        random.random_range(0..below.max(1))
    }

    /// Waits as the plan says. `true`: the append is to be taken and its answer lost.
    pub(super) async fn before_append(&self) -> Result<bool, AppendError> {
        let longest = self.0.append_ms_max.load(Ordering::Relaxed);
        if longest > 0 {
            tokio::time::sleep(Duration::from_millis(self.roll(longest).into())).await;
        }
        if self.is_down() || self.roll(1_000) < self.0.append_lost.load(Ordering::Relaxed) {
            return Err(AppendError::Unclear);
        }
        Ok(self.roll(1_000) < self.0.answer_lost.load(Ordering::Relaxed))
    }
}
