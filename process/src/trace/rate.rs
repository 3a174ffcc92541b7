//! How much is traced: a bucket that fills by the second.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub(super) struct Rate {
    per_s: f64,
    level: Mutex<(f64, Instant)>,
}

impl Rate {
    pub(super) fn new(per_s: u32) -> Rate {
        let per_s = f64::from(per_s);
        Rate { per_s, level: Mutex::new((per_s, Instant::now())) }
    }

    pub(super) fn take(&self) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let filled = level.0 + now.duration_since(level.1).as_secs_f64() * self.per_s;
        *level = (filled.min(self.per_s), now);
        if level.0 < 1.0 {
            return false;
        }
        level.0 -= 1.0;
        true
    }
}
