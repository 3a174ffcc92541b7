//! Measures once a second what a node's load is made of and nobody counts on the way: bytes that wait for slow
//! connections, and how late the workers' event loops are. Only for nodes with threads of their own; it changes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mlms_process::health::Component;
use tokio::runtime::Handle;

use crate::node::Node;

const PERIOD: Duration = Duration::from_secs(1);
/// Seconds after which a loop that has not turned is a thing for people.
const STUCK_AFTER: f64 = 5.0;

/// A probe on its way through a worker's event loop.
struct Probe {
    runtime: Handle,
    /// Microseconds that the last probe took; `WAITING` while it is under way.
    took: Arc<AtomicU64>,
    sent: Instant,
}

const WAITING: u64 = u64::MAX;

impl Probe {
    fn new(runtime: Handle) -> Self {
        Probe { runtime, took: Arc::default(), sent: Instant::now() }
    }

    /// Seconds that the worker let the last probe wait, or has let it wait so far; then sends the next.
    fn lag(&mut self) -> f64 {
        match self.took.load(Ordering::Relaxed) {
            WAITING => self.sent.elapsed().as_secs_f64(),
            micros => {
                self.send();
                Duration::from_micros(micros).as_secs_f64()
            }
        }
    }

    fn send(&mut self) {
        self.sent = Instant::now();
        self.took.store(WAITING, Ordering::Relaxed);
        let (took, sent) = (Arc::clone(&self.took), self.sent);
        // It ends at once, or with its runtime.
        drop(self.runtime.spawn(async move {
            let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(WAITING - 1);
            took.store(micros.min(WAITING - 1), Ordering::Relaxed);
        }));
    }
}

/// Measures until the node stops.
pub(crate) async fn measure(node: Arc<Node>, workers: Vec<Handle>, health: Component) {
    let mut probes: Vec<Probe> = workers.into_iter().map(Probe::new).collect();
    let mut ticker = tokio::time::interval(PERIOD);
    // The nodes of one process share the entry: only what changes is told.
    let mut is_stuck = false;
    health.ok();
    ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while node.stop.run_until_cancelled(ticker.tick()).await.is_some() {
        let lags: Vec<f64> = probes.iter_mut().map(Probe::lag).collect();
        node.metrics.loop_lag.set(lags.iter().copied().fold(0.0, f64::max));
        match (lags.iter().position(|lag| *lag >= STUCK_AFTER), is_stuck) {
            (Some(worker), false) => {
                tracing::error!(node = %node.name, worker, "a worker's loop does not turn");
                health.down(format!("worker {worker} of {} does not turn", node.name));
                is_stuck = true;
            }
            (None, true) => {
                tracing::info!(node = %node.name, "all workers' loops turn again");
                health.ok();
                is_stuck = false;
            }
            _ => {}
        }
        let waiting: usize =
            node.lock_sessions().values().map(|session| session.outbox.waiting_bytes()).sum();
        node.metrics.outbox_bytes.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_turn_is_seen() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut probe = Probe::new(runtime.handle().clone());
        assert!(probe.lag() < 0.000_001, "nothing was measured yet");
        while probe.lag() < 0.01 {
            std::thread::yield_now();
        }
        runtime.block_on(tokio::task::yield_now());
        assert!(probe.lag() >= 0.01, "the probe waited until the loop turned");
    }
}
