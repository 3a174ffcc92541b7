//! The workers' inboxes, and the threads that they run on.

use std::sync::atomic::AtomicBool;

use mlms_process::shutdown::Shutdown;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Threads;
use crate::worker::{INBOX_MAX, ToWorker, Worker};

/// The way to a worker.
pub(super) struct WorkerHandle {
    pub(super) inbox: mpsc::Sender<ToWorker>,
    pub(super) runtime: Handle,
    /// Somebody has waited in vain for room in the inbox, and nobody has found any since.
    pub(super) is_stuck: AtomicBool,
}

/// A worker's own thread, if it has one: where it gets its worker from, and how it is awaited.
pub(super) type Thread = Option<(std::sync::mpsc::Sender<WorkerThread>, std::thread::JoinHandle<()>)>;
/// What a worker's thread runs.
pub(super) type WorkerThread = (Worker, mpsc::Receiver<ToWorker>);

/// A worker that panics outside of any lobby's code leaves lobbies behind that nobody serves: the process stops, and
/// what starts in its place rebuilds them from the journal.
struct Alarm(Shutdown);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker panicked; stopping");
            self.0.begin();
        }
    }
}

/// Makes the workers' inboxes, and the threads that wait for their worker.
pub(super) fn prepare_workers(
    threads: &Threads,
    shutdown: &Shutdown,
) -> (Vec<WorkerHandle>, Vec<mpsc::Receiver<ToWorker>>, Vec<Thread>) {
    let (count, own) = match threads {
        Threads::Own(count) => ((*count).max(1), true),
        Threads::Shared(count) => ((*count).max(1), false),
    };
    let (mut handles, mut inboxes, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let (inbox, receiver) = mpsc::channel(INBOX_MAX);
        inboxes.push(receiver);
        if own {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("the system gives a worker its event queue at the start");
            let runtime_of = runtime.handle().clone();
            handles.push(WorkerHandle { inbox, runtime: runtime_of, is_stuck: AtomicBool::new(false) });
            let (give, take) = std::sync::mpsc::channel::<WorkerThread>();
            let alarm = Alarm(shutdown.clone());
            let thread = std::thread::Builder::new().name(format!("lobbies-{number}")).spawn(move || {
                let _alarm = alarm;
                if let Ok((worker, receiver)) = take.recv() {
                    runtime.block_on(worker.run(receiver));
                }
                // Sessions that outlive the drain end with their runtime.
                runtime.shutdown_background();
            });
            started.push(Some((give, thread.expect("the system gives a thread at the start"))));
        } else {
            handles.push(WorkerHandle {
                inbox,
                runtime: Handle::current(),
                is_stuck: AtomicBool::new(false),
            });
            started.push(None);
        }
    }
    (handles, inboxes, started)
}
