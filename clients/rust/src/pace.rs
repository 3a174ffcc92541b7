//! Keeps within the server's rates (`welcome.limits`), so that what gathered while the connection was lost leaves a
//! little slower and in order, rather than being refused in part.

use std::time::Duration;

use mlms_protocol::Limits;
use tokio::time::Instant;

/// What one session may still send.
#[derive(Debug)]
pub(crate) struct Pace {
    commands: Bucket,
    chats: Bucket,
}

#[derive(Debug)]
struct Bucket {
    /// 0: no limit.
    per_s: f64,
    burst: f64,
    level: f64,
    at: Instant,
}

impl Pace {
    /// A new session starts with full buckets.
    pub(crate) fn new(limits: &Limits, now: Instant) -> Self {
        Pace {
            commands: Bucket::new(limits.commands_per_s, limits.commands_burst, now),
            chats: Bucket::new(limits.chats_per_s, limits.chats_burst, now),
        }
    }

    /// Takes leave to send one command.
    ///
    /// # Errors
    /// When to ask again.
    pub(crate) fn take(&mut self, is_chat: bool, now: Instant) -> Result<(), Instant> {
        let wait = self.commands.wait(now).max(if is_chat { self.chats.wait(now) } else { Duration::ZERO });
        if !wait.is_zero() {
            return Err(now + wait);
        }
        self.commands.level -= 1.0;
        if is_chat {
            self.chats.level -= 1.0;
        }
        Ok(())
    }
}

impl Bucket {
    fn new(per_s: u32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Bucket { per_s: f64::from(per_s), burst, level: burst, at: now }
    }

    fn wait(&mut self, now: Instant) -> Duration {
        if self.per_s <= 0.0 {
            return Duration::ZERO;
        }
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level, self.at) = ((self.level + passed * self.per_s).min(self.burst), now);
        match self.level >= 1.0 {
            true => Duration::ZERO,
            // Timers count milliseconds.
            false => Duration::from_secs_f64((1.0 - self.level) / self.per_s) + Duration::from_millis(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let limits = Limits {
            commands_per_s: 10,
            commands_burst: 5,
            chats_per_s: 2,
            chats_burst: 2,
            ..Limits::default()
        };
        let mut now = Instant::now();
        let began = now;
        let mut pace = Pace::new(&limits, now);
        let mut sent = 0;
        while now < began + Duration::from_secs(10) {
            match pace.take(false, now) {
                Ok(()) => sent += 1,
                Err(at) => now = at,
            }
        }
        assert!((100..=106).contains(&sent), "{sent}");
        let mut pace = Pace::new(&limits, now);
        assert_eq!([pace.take(true, now), pace.take(true, now)], [Ok(()), Ok(())]);
        let later = pace.take(true, now).unwrap_err();
        assert_eq!(pace.take(false, now), Ok(()), "a chat's turn is nobody else's");
        assert!(later > now + Duration::from_millis(499) && pace.take(true, later).is_ok());
        let mut free = Pace::new(&Limits { commands_per_s: 0, chats_per_s: 0, ..limits }, now);
        assert!((0..1_000).all(|_| free.take(true, now).is_ok()));
    }
}
