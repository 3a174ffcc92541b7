//! How many requests a user may make: the rate of commands on a socket, at each broker. A token with the role `server`
//! speaks for a whole game and may make more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mlms_process::jwt::Claims;
use mlms_protocol::{ErrorCode, Refusal, Role, UserId};

/// How many times a user's rate a game's back end has.
const SERVER_FACTOR: f64 = 20.0;
/// Users remembered at once; those with a full bucket are forgotten first.
const USERS_MAX: usize = 50_000;

/// A token bucket for each user that asked lately.
pub(crate) struct UserRate {
    per_s: f64,
    burst: f64,
    buckets: Mutex<HashMap<UserId, Bucket>>,
}

struct Bucket {
    left: f64,
    at: Instant,
    factor: f64,
}

impl UserRate {
    /// 0 a second turns the limit off.
    pub(crate) fn new(per_s: u32, burst: u32) -> Self {
        UserRate { per_s: per_s.into(), burst: f64::from(burst.max(1)), buckets: Mutex::new(HashMap::new()) }
    }

    /// Lets one through.
    ///
    /// # Errors
    /// `rate_limited`, with the time after which the next one passes.
    pub(crate) fn admit(&self, claims: &Claims) -> Result<(), Refusal> {
        self.admit_at(&claims.sub, claims.has_role(Role::Server), Instant::now())
    }

    fn refilled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_s * bucket.factor;
        (bucket.left + gained).min(self.burst * bucket.factor)
    }

    fn admit_at(&self, user: &UserId, is_server: bool, now: Instant) -> Result<(), Refusal> {
        if self.per_s == 0.0 {
            return Ok(());
        }
        let factor = if is_server { SERVER_FACTOR } else { 1.0 };
        let refuse = |ms| {
            let text = "too many requests";
            Err(Refusal::new(ErrorCode::RateLimited, text).retry_after(ms))
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(user) && buckets.len() >= USERS_MAX {
            buckets.retain(|_, bucket| self.refilled(bucket, now) < self.burst * bucket.factor);
            if buckets.len() >= USERS_MAX {
                return refuse(1_000);
            }
        }
        let new = Bucket { left: self.burst * factor, at: now, factor };
        let bucket = buckets.entry(user.clone()).or_insert(new);
        *bucket = Bucket { left: self.refilled(bucket, now), at: now, factor };
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        // Bounded: a bucket lacks at most one, and a rate is at least one a second.
        refuse(((1.0 - bucket.left) / (self.per_s * factor) * 1_000.0).ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_gets_its_burst_then_its_rate_and_a_server_more() {
        let rate = UserRate::new(10, 20);
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        let start = Instant::now();
        for _ in 0..20 {
            assert_eq!(rate.admit_at(&ann, false, start), Ok(()));
        }
        let refusal = rate.admit_at(&ann, false, start).unwrap_err();
        assert_eq!((refusal.code, refusal.retry_ms), (ErrorCode::RateLimited, Some(100)));
        assert_eq!(rate.admit_at(&ann, false, start + Duration::from_millis(100)), Ok(()));
        for _ in 0..400 {
            assert_eq!(rate.admit_at(&bob, true, start), Ok(()));
        }
        assert!(rate.admit_at(&bob, true, start).is_err());
        assert_eq!(UserRate::new(0, 0).admit_at(&ann, false, start), Ok(()));
    }
}
