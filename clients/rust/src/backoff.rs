//! How long to stay away: full jitter from the first retry on, so that a crowd that was cut off together does not
//! come back together.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

/// Doublings after which the pause no longer grows whatever the settings are.
const DOUBLINGS_MAX: u32 = 20;

#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Backoff { first, max, attempt: 0 }
    }

    /// A random pause below a bound that doubles with each call.
    pub(crate) fn next(&mut self, random: &mut StdRng) -> Duration {
        let bound = self.first.saturating_mul(1 << self.attempt.min(DOUBLINGS_MAX)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        bound.mul_f64(random.random::<f64>())
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// A random point inside a window of milliseconds, whichever way round it is given.
pub(crate) fn inside(window_ms: (u64, u64), random: &mut StdRng) -> Duration {
    let (from, to) = (window_ms.0.min(window_ms.1), window_ms.0.max(window_ms.1));
    Duration::from_millis(random.random_range(from..=to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn pauses_are_random_below_a_growing_bound() {
        let mut random = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(20));
        let mut longest = Duration::ZERO;
        for attempt in 0..100 {
            let bound = Duration::from_millis(500 << attempt.min(10)).min(Duration::from_secs(20));
            let pause = backoff.next(&mut random);
            assert!(pause <= bound, "attempt {attempt}: {pause:?}");
            longest = longest.max(pause);
        }
        assert!(longest > Duration::from_secs(10));
        backoff.reset();
        assert!(backoff.next(&mut random) <= Duration::from_millis(500));
    }

    #[test]
    fn a_window_is_kept() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..100 {
            let pause = inside((5_000, 1_000), &mut random);
            assert!((1_000..=5_000).contains(&pause.as_millis()));
        }
        assert_eq!(inside((7, 7), &mut random), Duration::from_millis(7));
    }
}
