//! The time that lobbies see: Unix milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use mlms_protocol::Millis;
use tokio::time::Instant;

/// Where the time comes from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's clock.
    System,
    /// Follows the runtime's clock from a given start, so that a paused runtime pauses it.
    Runtime { start: Millis, since: Instant },
}

impl Clock {
    pub(crate) fn now(&self) -> Millis {
        match self {
            Clock::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Millis(0).after(since)
            }
            Clock::Runtime { start, since } => start.after(since.elapsed()),
        }
    }
}
