//! Token buckets: how often a session may do something, and when too often becomes an attack.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mlms_protocol::UserId;
use tokio::time::Instant;

/// Ten times a rate for this long ends the session with 4008.
const FLOOD_WINDOW: Duration = Duration::from_secs(5);
const FLOOD_FACTOR: f64 = 10.0;

/// A rate with a burst; rate 0 lets everything through.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
    /// What was asked for since the window began, granted or not.
    asked: f64,
    window: Instant,
}

/// What a bucket says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    Yes,
    /// Not now; in this many milliseconds.
    Later(u64),
    /// The session asks so often that it is to be closed.
    Flood,
}

impl Bucket {
    pub(crate) fn new(rate: f64, burst: f64) -> Self {
        let now = Instant::now();
        Bucket { rate, burst, tokens: burst, filled: now, asked: 0.0, window: now }
    }

    pub(crate) fn take(&mut self) -> Grant {
        if self.rate <= 0.0 {
            return Grant::Yes;
        }
        if self.is_flooded() { Grant::Flood } else { self.draw() }
    }

    fn draw(&mut self) -> Grant {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Grant::Yes;
        }
        let wait = Duration::from_secs_f64((1.0 - self.tokens) / self.rate);
        Grant::Later(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1))
    }

    /// Counts one that is asked for, granted or not, and tells whether they are far too many.
    pub(crate) fn is_flooded(&mut self) -> bool {
        if self.rate <= 0.0 {
            return false;
        }
        let now = Instant::now();
        if now.duration_since(self.window) >= FLOOD_WINDOW {
            (self.asked, self.window) = (0.0, now);
        }
        self.asked += 1.0;
        self.asked > self.burst + self.rate * FLOOD_FACTOR * FLOOD_WINDOW.as_secs_f64()
    }

    /// Gives back what was taken and not used.
    fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
    }

    fn is_full(&self) -> bool {
        self.tokens + self.filled.elapsed().as_secs_f64() * self.rate >= self.burst
    }
}

/// Users with a bucket at once; beyond it, full buckets are forgotten first.
const USERS_MAX: usize = 100_000;

/// How often each user may create a lobby. Counted by the node of the user's session, before its join goes to the lobby's
/// owner, and given back when the lobby was there already.
#[derive(Debug)]
pub(crate) struct Creates {
    per_minute: AtomicU32,
    users: Mutex<HashMap<UserId, Bucket>>,
}

impl Creates {
    pub(crate) fn new(per_minute: u32) -> Self {
        Creates { per_minute: AtomicU32::new(per_minute), users: Mutex::default() }
    }

    /// Another rate, from now on; whoever has used it up starts anew.
    pub(crate) fn set(&self, per_minute: u32) {
        if self.per_minute.swap(per_minute, Ordering::Relaxed) != per_minute {
            self.users.lock().expect("no holder of the buckets panics").clear();
        }
    }

    pub(crate) fn take(&self, user: &UserId) -> Grant {
        let per_minute = self.per_minute.load(Ordering::Relaxed);
        if per_minute == 0 {
            return Grant::Yes;
        }
        let mut users = self.users.lock().expect("no holder of the buckets panics");
        if users.len() >= USERS_MAX {
            users.retain(|_, bucket| !bucket.is_full());
            if users.len() >= USERS_MAX {
                return Grant::Later(1_000);
            }
        }
        let rate = f64::from(per_minute);
        let bucket = users.entry(user.clone()).or_insert_with(|| Bucket::new(rate / 60.0, rate));
        bucket.draw()
    }

    pub(crate) fn give_back(&self, user: &UserId) {
        if let Some(bucket) = self.users.lock().expect("no holder of the buckets panics").get_mut(user) {
            bucket.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_holds_and_a_flood_is_seen() {
        let mut bucket = Bucket::new(10.0, 20.0);
        assert!((0..20).all(|_| bucket.take() == Grant::Yes));
        assert_eq!(bucket.take(), Grant::Later(100));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(bucket.take(), Grant::Yes);
        let flood = (0..600).map(|_| bucket.take()).find(|grant| *grant == Grant::Flood);
        assert_eq!(flood, Some(Grant::Flood));
        let mut off = Bucket::new(0.0, 0.0);
        assert!((0..10_000).all(|_| off.take() == Grant::Yes));
    }

    #[tokio::test(start_paused = true)]
    async fn users_create_independently() {
        let creates = Creates::new(2);
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        assert_eq!([creates.take(&ann), creates.take(&ann)], [Grant::Yes, Grant::Yes]);
        assert!(matches!(creates.take(&ann), Grant::Later(_)));
        assert_eq!(creates.take(&bob), Grant::Yes);
        creates.give_back(&ann);
        assert_eq!(creates.take(&ann), Grant::Yes);
        assert!(matches!(creates.take(&ann), Grant::Later(_)));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(creates.take(&ann), Grant::Yes);
    }
}
