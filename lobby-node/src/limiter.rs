//! Token buckets: how often a session may do something, and when too often becomes an attack.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mlms_protocol::UserId;
use tokio::time::Instant;

/// Ten times a rate for this long ends the session with 4008.
const FLOOD_WINDOW: Duration = Duration::from_secs(5);
const FLOOD_FACTOR: f32 = 10.0;

/// Milliseconds on a clock of the node's own that never stands back, and begins anew after 49 days: only how far two
/// moments are apart means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(u32);

impl Moment {
    /// The time that has passed since the node's start.
    pub(crate) fn since(start: Instant) -> Moment {
        Moment(start.elapsed().as_millis() as u32)
    }

    fn after(self, earlier: Moment) -> Duration {
        Duration::from_millis(self.0.wrapping_sub(earlier.0).into())
    }
}

/// A rate with a burst; rate 0 lets everything through. A session holds three, so it is small.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f32,
    burst: f32,
    tokens: f32,
    /// What was asked for since the window began, granted or not.
    asked: f32,
    filled: Moment,
    window: Moment,
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
    pub(crate) fn new(rate: f32, burst: f32, now: Moment) -> Self {
        Bucket { rate, burst, tokens: burst, asked: 0.0, filled: now, window: now }
    }

    pub(crate) fn take(&mut self, now: Moment) -> Grant {
        if self.rate <= 0.0 {
            return Grant::Yes;
        }
        if self.is_flooded(now) { Grant::Flood } else { self.draw(now) }
    }

    fn draw(&mut self, now: Moment) -> Grant {
        self.tokens = self.tokens_at(now);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Grant::Yes;
        }
        let wait_ms = ((1.0 - self.tokens) / self.rate * 1_000.0).ceil();
        Grant::Later((wait_ms as u64).max(1))
    }

    fn tokens_at(&self, now: Moment) -> f32 {
        (self.tokens + now.after(self.filled).as_secs_f32() * self.rate).min(self.burst)
    }

    /// Counts one that is asked for, granted or not, and tells whether they are far too many.
    pub(crate) fn is_flooded(&mut self, now: Moment) -> bool {
        if self.rate <= 0.0 {
            return false;
        }
        if now.after(self.window) >= FLOOD_WINDOW {
            (self.asked, self.window) = (0.0, now);
        }
        self.asked += 1.0;
        self.asked > self.burst + self.rate * FLOOD_FACTOR * FLOOD_WINDOW.as_secs_f32()
    }

    /// Gives back what was taken and not used.
    fn give_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.burst);
    }

    fn is_full(&self, now: Moment) -> bool {
        self.tokens_at(now) >= self.burst
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
    start: Instant,
}

impl Creates {
    pub(crate) fn new(per_minute: u32) -> Self {
        Creates { per_minute: AtomicU32::new(per_minute), users: Mutex::default(), start: Instant::now() }
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
        let now = Moment::since(self.start);
        let mut users = self.users.lock().expect("no holder of the buckets panics");
        if users.len() >= USERS_MAX {
            users.retain(|_, bucket| !bucket.is_full(now));
            if users.len() >= USERS_MAX {
                return Grant::Later(1_000);
            }
        }
        let rate = per_minute as f32;
        let bucket = users.entry(user.clone()).or_insert_with(|| Bucket::new(rate / 60.0, rate, now));
        bucket.draw(now)
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
        let start = Instant::now();
        let now = || Moment::since(start);
        let mut bucket = Bucket::new(10.0, 20.0, now());
        assert!((0..20).all(|_| bucket.take(now()) == Grant::Yes));
        assert_eq!(bucket.take(now()), Grant::Later(100));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(bucket.take(now()), Grant::Yes);
        let flood = (0..600).map(|_| bucket.take(now())).find(|grant| *grant == Grant::Flood);
        assert_eq!(flood, Some(Grant::Flood));
        let mut off = Bucket::new(0.0, 0.0, now());
        assert!((0..10_000).all(|_| off.take(now()) == Grant::Yes));
    }

    #[test]
    fn a_rate_holds_over_many_short_steps_and_where_the_clock_begins_anew() {
        let at = |ms: u32| Moment(u32::MAX.wrapping_sub(5_000).wrapping_add(ms));
        let mut bucket = Bucket::new(30.0, 60.0, at(0));
        let granted = (0..10_000).filter(|ms| bucket.draw(at(*ms)) == Grant::Yes).count();
        assert!((358..=360).contains(&granted), "60 at once and 30 a second: {granted}");
        let Grant::Later(wait) = bucket.draw(at(10_000)) else { panic!("it is empty") };
        assert_eq!(bucket.draw(at(10_000 + u32::try_from(wait).unwrap())), Grant::Yes);
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
