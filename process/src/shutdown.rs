//! Stopping: the first signal begins the drain, the second hurries it; a deadline bounds it in any case. `Tasks` owns
//! every task of a composition, awaits each, and ends the process when one fails.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::logging::panic_message;

/// What a hurry leaves the tasks for their last words and writes.
const HURRIED_REST: Duration = Duration::from_secs(3);

/// The two steps of stopping. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    hurry: CancellationToken,
}

impl Shutdown {
    pub fn new() -> Shutdown {
        Shutdown::default()
    }

    /// One signal, from the system or from the operator: the first begins the drain, the next one hurries.
    pub fn signal(&self) {
        if self.drain.is_cancelled() {
            self.hurry.cancel();
        } else {
            self.drain.cancel();
        }
    }

    /// Begins the drain; unlike `signal` it does not hurry when one is under way.
    pub fn begin(&self) {
        self.drain.cancel();
    }

    /// Cancelled when the drain begins.
    pub fn drain(&self) -> &CancellationToken {
        &self.drain
    }

    /// Cancelled when the drain has to end now.
    pub fn hurry(&self) -> &CancellationToken {
        &self.hurry
    }

    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// A deadline from now that a hurry ends early.
    pub fn deadline(&self, window: Duration) -> Deadline {
        Deadline { at: Instant::now() + window, hurry: self.hurry.clone() }
    }

    /// Turns SIGTERM and SIGINT into `signal`, for as long as it runs.
    ///
    /// # Errors
    /// When the system does not let the process listen for signals.
    pub async fn listen(&self) -> std::io::Result<()> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut terminate, mut interrupt) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!(second = self.is_draining(), "signal: stopping");
                self.signal();
            }
        }
        #[cfg(not(unix))]
        loop {
            tokio::signal::ctrl_c().await?;
            self.signal();
        }
    }
}

/// An end that something must have by a time, or as soon as the operator hurries.
#[derive(Debug, Clone)]
pub struct Deadline {
    at: Instant,
    hurry: CancellationToken,
}

/// The deadline came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not finished before the deadline")]
pub struct TooLate;

impl Deadline {
    /// Time left; zero after a hurry.
    pub fn remaining(&self) -> Duration {
        if self.hurry.is_cancelled() {
            Duration::ZERO
        } else {
            self.at.saturating_duration_since(Instant::now())
        }
    }

    /// Returns at the deadline. Cancel safe.
    pub async fn passed(&self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.at) => {}
            () = self.hurry.cancelled() => {}
        }
    }

    /// Runs a future, at most until the deadline.
    ///
    /// # Errors
    /// `TooLate` when the deadline came first; the future is dropped.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, TooLate> {
        tokio::select! {
            biased;
            done = future => Ok(done),
            () = self.passed() => Err(TooLate),
        }
    }
}

/// Why a task ended the process.
#[derive(Debug, thiserror::Error)]
#[error("{task}: {cause}")]
pub struct TaskFailure {
    pub task: &'static str,
    pub cause: String,
}

/// The long-lived tasks of one process, each owned and awaited here.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Starts a task that runs until it is told to stop.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_fallible(name, async {
            task.await;
            Ok::<(), String>(())
        });
    }

    /// Starts a task whose error ends the process.
    pub fn spawn_fallible<E: std::fmt::Display + 'static>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.set.spawn(async { task.await.map_err(|error| error.to_string()) });
        self.names.insert(handle.id(), name);
    }

    /// Runs until every task has ended. A task that fails or panics begins the drain. From the start of the drain the
    /// others have `window`, or a moment after a hurry; whoever is left then is aborted.
    ///
    /// # Errors
    /// The first failure.
    pub async fn run(mut self, shutdown: &Shutdown, window: Duration) -> Result<(), TaskFailure> {
        let mut failure = None;
        while !shutdown.is_draining() {
            tokio::select! {
                () = shutdown.drain().cancelled() => {}
                ended = self.set.join_next_with_id() => match ended {
                    Some(ended) => self.settle(ended, shutdown, &mut failure),
                    None => break,
                },
            }
        }
        let deadline = shutdown.deadline(window);
        while let Ok(Some(ended)) = deadline.run(self.set.join_next_with_id()).await {
            self.settle(ended, shutdown, &mut failure);
        }
        if shutdown.hurry().is_cancelled() {
            let rest = Instant::now() + HURRIED_REST;
            while let Ok(Some(ended)) = tokio::time::timeout_at(rest, self.set.join_next_with_id()).await {
                self.settle(ended, shutdown, &mut failure);
            }
        }
        let left: Vec<&str> = self.names.values().copied().collect();
        if !left.is_empty() {
            tracing::warn!(tasks = ?left, "tasks did not end in time and are aborted");
            self.set.shutdown().await;
        }
        failure.map_or(Ok(()), Err)
    }

    fn settle(
        &mut self,
        ended: Result<(Id, Result<(), String>), JoinError>,
        shutdown: &Shutdown,
        failure: &mut Option<TaskFailure>,
    ) {
        let (id, cause) = match ended {
            Ok((id, outcome)) => (id, outcome.err()),
            Err(error) => {
                let id = error.id();
                (id, Some(panic_text(error)))
            }
        };
        let task = self.names.remove(&id).unwrap_or("task");
        let Some(cause) = cause else {
            tracing::debug!(task, "task ended");
            return;
        };
        tracing::error!(task, cause, "task failed: the process stops");
        shutdown.begin();
        failure.get_or_insert(TaskFailure { task, cause });
    }
}

fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => format!("panicked: {}", panic_message(&*panic)),
        Err(_) => "was aborted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn the_first_signal_drains_and_the_second_hurries() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_draining());
        shutdown.signal();
        assert!(shutdown.is_draining() && !shutdown.hurry().is_cancelled());
        shutdown.begin();
        assert!(!shutdown.hurry().is_cancelled(), "begin never hurries");
        shutdown.signal();
        assert!(shutdown.hurry().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_by_time_and_by_hurry() {
        let shutdown = Shutdown::new();
        let deadline = shutdown.deadline(Duration::from_secs(20));
        assert_eq!(deadline.remaining(), Duration::from_secs(20));
        assert_eq!(deadline.run(async { 7 }).await, Ok(7));
        assert_eq!(deadline.run(pending::<()>()).await, Err(TooLate));
        assert_eq!(deadline.remaining(), Duration::ZERO);

        let deadline = shutdown.deadline(Duration::from_secs(1_000_000));
        shutdown.signal();
        shutdown.signal();
        assert_eq!(deadline.remaining(), Duration::ZERO);
        assert_eq!(deadline.run(pending::<()>()).await, Err(TooLate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_drains_the_others_and_is_the_error() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new();
        let drained = Arc::new(AtomicBool::new(false));
        let (seen, drain) = (drained.clone(), shutdown.drain().clone());
        tasks.spawn("listener", async move {
            drain.cancelled().await;
            seen.store(true, Ordering::SeqCst);
        });
        tasks.spawn("journal", async { panic!("out of paper") });
        let failure = tasks.run(&shutdown, Duration::from_secs(20)).await.unwrap_err();
        assert_eq!((failure.task, failure.cause.as_str()), ("journal", "panicked: out of paper"));
        assert!(drained.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_ends_the_process_and_a_quiet_end_does_not() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new();
        tasks.spawn("done", async {});
        tasks.spawn_fallible("directory", async { Err("no such host") });
        let failure = tasks.run(&shutdown, Duration::ZERO).await.unwrap_err();
        assert_eq!(failure.to_string(), "directory: no such host");

        let mut tasks = Tasks::new();
        tasks.spawn("done", async {});
        assert!(tasks.run(&Shutdown::new(), Duration::ZERO).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hurry_leaves_time_for_last_words() {
        let shutdown = Shutdown::new();
        let mut tasks = Tasks::new();
        let (said, hurried) = (Arc::new(AtomicBool::new(false)), shutdown.clone());
        let saying = said.clone();
        tasks.spawn("node", async move {
            hurried.hurry().cancelled().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            saying.store(true, Ordering::SeqCst);
        });
        shutdown.signal();
        shutdown.signal();
        assert!(tasks.run(&shutdown, Duration::from_secs(20)).await.is_ok());
        assert!(said.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_is_aborted_after_the_window_or_at_a_hurry() {
        for hurry in [false, true] {
            let shutdown = Shutdown::new();
            let mut tasks = Tasks::new();
            tasks.spawn("stubborn", pending());
            shutdown.signal();
            if hurry {
                shutdown.signal();
            }
            let begun = Instant::now();
            assert!(tasks.run(&shutdown, Duration::from_secs(20)).await.is_ok());
            let expected = if hurry { HURRIED_REST } else { Duration::from_secs(20) };
            assert_eq!(begun.elapsed(), expected);
        }
    }
}
