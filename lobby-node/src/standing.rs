//! How sure a node may be that the others still count on it. A node that has not renewed its lease for a while, for
//! it was frozen or the directory is away, says so to its players before it delivers anything more; one whose lease
//! has lapsed comes back as somebody whom the others may have given up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mlms_cluster::directory::LEASE;
use mlms_protocol::{Event, Millis, NoticeCode};
use tokio::time::Instant;

use crate::node::Node;
use crate::session::SessionHandle;

/// A lease that was renewed longer ago than this may be gone before the next answer comes.
const SURE: Duration = Duration::from_secs(4);

/// When the last renewal that succeeded began, by two clocks: the monotonic one stands still while the machine is
/// suspended, the wall clock does not. The older answer counts; a wall clock that is set forward makes the node unsure
/// until its next renewal, and no more.
pub(crate) struct Standing {
    start: Instant,
    renewed_ms: AtomicU64,
    renewed_wall: AtomicU64,
    degraded: AtomicBool,
}

impl Standing {
    pub(crate) fn new(wall: Millis) -> Self {
        Standing {
            start: Instant::now(),
            renewed_ms: AtomicU64::new(0),
            renewed_wall: AtomicU64::new(wall.0),
            degraded: AtomicBool::new(false),
        }
    }

    /// How long the node has been there.
    pub(crate) fn since_began(&self) -> Duration {
        self.start.elapsed()
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn age(&self, now: Instant, wall: Millis) -> Duration {
        let turned = self.since_start(now).saturating_sub(self.renewed_ms.load(Ordering::Relaxed));
        let passed = wall.0.saturating_sub(self.renewed_wall.load(Ordering::Relaxed));
        Duration::from_millis(turned.max(passed))
    }

    fn renewed(&self, began: Instant, wall: Millis) {
        self.renewed_ms.store(self.since_start(began), Ordering::Relaxed);
        self.renewed_wall.store(wall.0, Ordering::Relaxed);
    }

    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }
}

fn notice(code: NoticeCode) -> Event {
    let message = match code {
        NoticeCode::Degraded => "this node has lost touch with the others; what needs no journal goes on",
        _ => "everything works again",
    };
    Event::Notice { code, message: message.to_owned() }
}

impl Node {
    /// A renewal that began at `began` has succeeded. `true`: the lease had lapsed before it.
    pub(crate) fn on_renewed(&self, began: Instant, wall: Millis) -> bool {
        let has_lapsed = self.standing.age(began, wall) >= LEASE;
        self.standing.renewed(began, wall);
        if self.standing.degraded.swap(false, Ordering::Relaxed) {
            tracing::info!(node = %self.name, has_lapsed, "the node is in touch with the others again");
            self.tell_sessions(&notice(NoticeCode::Recovered));
        }
        has_lapsed
    }

    /// Looked at before anything is taken in or delivered.
    pub(crate) fn check_standing(&self) {
        if self.standing.age(Instant::now(), self.clock.now()) > SURE
            && !self.standing.degraded.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(node = %self.name, "the lease was not renewed for a while");
            self.tell_sessions(&notice(NoticeCode::Degraded));
        }
    }

    /// A session that comes to a degraded node hears of it first.
    pub(crate) fn tell_standing(&self, session: &SessionHandle) {
        if self.standing.is_degraded() {
            session.outbox.push_event(&notice(NoticeCode::Degraded));
        }
    }

    fn tell_sessions(&self, event: &Event) {
        for session in self.sessions() {
            session.outbox.push_event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspended_machine_s_lease_is_as_old_as_the_wall_clock_says() {
        let standing = Standing::new(Millis(1_000_000));
        let start = standing.start;
        let second = Duration::from_secs(1);
        standing.renewed(start + second, Millis(1_001_000));
        assert_eq!(standing.age(start + 3 * second, Millis(1_003_000)), 2 * second);
        // Both clocks went on for two seconds, and one slept for a minute.
        assert_eq!(standing.age(start + 3 * second, Millis(1_063_000)), 62 * second);
        // A wall clock that is set back hides nothing.
        assert_eq!(standing.age(start + 8 * second, Millis(900_000)), 7 * second);
    }
}
