//! What the embedded cluster can be told to do wrong, repeatably from a seed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
}

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
