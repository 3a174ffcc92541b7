//! The threads that carry tunnels, one a processor, each with an event loop and trunks of its own. A tunnel stays on its
//! thread for as long as it lasts: two loops that steal from each other cost a fifth more for each message than two that
//! do not. The broker starts them and stops them when its tunnels have ended; handshakes and REST never run here.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::trunks::Trunks;

/// The ways to the threads.
pub(crate) struct Carriers {
    loops: Vec<Carrier>,
    /// Tunnels so far: the next one goes to the thread whose turn it is.
    given: AtomicUsize,
    stop: CancellationToken,
}

/// The way to one thread.
pub(crate) struct Carrier {
    /// Its event loop.
    pub(crate) runtime: Handle,
    pub(crate) trunks: Trunks,
}

/// The threads themselves.
pub(crate) struct CarrierThreads(Vec<JoinHandle<()>>);

impl Carriers {
    /// Starts a thread for each processor.
    ///
    /// # Errors
    /// When the system gives no thread or no event queue.
    pub(crate) fn start(metrics: &Metrics) -> io::Result<(Carriers, CarrierThreads)> {
        let count = std::thread::available_parallelism().map_or(1, NonZero::get);
        let stop = CancellationToken::new();
        // When a later thread cannot be had, those before it end.
        let failing = stop.clone().drop_guard();
        let (mut loops, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let running = TaskTracker::new();
            let trunks = Trunks::new(runtime.handle().clone(), metrics, stop.clone(), running.clone());
            loops.push(Carrier { runtime: runtime.handle().clone(), trunks });
            let stopped = stop.clone();
            let thread = std::thread::Builder::new().name(format!("tunnels-{number}"));
            threads.push(thread.spawn(move || {
                runtime.block_on(async {
                    stopped.cancelled().await;
                    running.close();
                    running.wait().await;
                });
                // What outlives the broker's drain ends here.
                runtime.shutdown_background();
            })?);
        }
        failing.disarm();
        Ok((Carriers { loops, given: AtomicUsize::new(0), stop }, CarrierThreads(threads)))
    }

    /// The thread of the next tunnel.
    pub(crate) fn next(&self) -> &Carrier {
        &self.loops[self.given.fetch_add(1, Ordering::Relaxed) % self.loops.len()]
    }

    /// Ends the threads. Tunnels that are left end with them.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Carriers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl CarrierThreads {
    /// Returns when all threads have ended.
    pub(crate) async fn join(self) {
        let joining = tokio::task::spawn_blocking(move || {
            for thread in self.0 {
                // A thread has nothing of its own that could panic; tunnels' panics stay with them.
                let _ = thread.join();
            }
        });
        let _ = joining.await;
    }
}

/// Takes a connection from the event loop that it was opened on to another.
///
/// # Errors
/// When the connection has ended, or the system refuses to watch it.
pub(crate) fn take_over(stream: TcpStream, by: &Handle) -> io::Result<TcpStream> {
    let stream = stream.into_std()?;
    let _entered = by.enter();
    TcpStream::from_std(stream)
}
