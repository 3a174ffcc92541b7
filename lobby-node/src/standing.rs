//! How sure a node may be that the others still count on it. A node that has not renewed its lease for a while, for
//! it was frozen or the directory is away, says so to its players before it delivers anything more; one whose lease
//! has lapsed comes back as somebody whom the others may have given up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mlms_cluster::directory::LEASE;
use mlms_protocol::{Event, NoticeCode};
use tokio::time::Instant;

use crate::node::Node;
use crate::session::SessionHandle;

/// A lease that was renewed longer ago than this may be gone before the next answer comes.
const SURE: Duration = Duration::from_secs(4);

/// When the last renewal that succeeded began.
pub(crate) struct Standing {
    start: Instant,
    renewed_ms: AtomicU64,
    degraded: AtomicBool,
}

impl Standing {
    pub(crate) fn new() -> Self {
        Standing { start: Instant::now(), renewed_ms: AtomicU64::new(0), degraded: AtomicBool::new(false) }
    }

    fn since_start(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    fn age(&self, now: Instant) -> Duration {
        let renewed = self.renewed_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.since_start(now).saturating_sub(renewed))
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
    pub(crate) fn on_renewed(&self, began: Instant) -> bool {
        let has_lapsed = self.standing.age(began) >= LEASE;
        self.standing.renewed_ms.store(self.standing.since_start(began), Ordering::Relaxed);
        if self.standing.degraded.swap(false, Ordering::Relaxed) {
            tracing::info!(node = %self.name, has_lapsed, "the node is in touch with the others again");
            self.tell_sessions(&notice(NoticeCode::Recovered));
        }
        has_lapsed
    }

    /// Looked at before anything is taken in or delivered.
    pub(crate) fn check_standing(&self) {
        if self.standing.age(Instant::now()) > SURE && !self.standing.degraded.swap(true, Ordering::Relaxed) {
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
