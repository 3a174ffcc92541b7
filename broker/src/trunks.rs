//! The trunks of one thread of the carriers': one connection to each node for all players whose tunnels run there. Made
//! when the first of them comes, and shared by who comes meanwhile. A node of a release without trunks has none: its
//! players get a connection each.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use mlms_process::trunk::Trunk;
use mlms_protocol::ticket::ClusterKeys;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::node::{self, NodeRefusal, TrunkAnswer};

/// How long a node that has no trunks is not asked for one again: it may be replaced by a newer release.
const WITHOUT: Duration = Duration::from_secs(10);

/// A trunk that is being made; all who need it wait for the same attempt.
type Making = Shared<BoxFuture<'static, Result<Made, NodeRefusal>>>;

/// What came of making a trunk.
#[derive(Clone)]
enum Made {
    Trunk(Trunk),
    /// The node knows of no trunks.
    Without(Instant),
}

/// The trunks of one thread, by the nodes' addresses.
pub(crate) struct Trunks {
    runtime: Handle,
    by_node: Mutex<HashMap<String, Making>>,
    metrics: Metrics,
    stop: CancellationToken,
    running: TaskTracker,
}

impl Trunks {
    /// They end at `stop`, when what was said on them is out, and each is among `running` until then.
    pub(crate) fn new(
        runtime: Handle,
        metrics: &Metrics,
        stop: CancellationToken,
        running: TaskTracker,
    ) -> Trunks {
        Trunks { runtime, by_node: Mutex::default(), metrics: metrics.clone(), stop, running }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Making>> {
        self.by_node.lock().expect("no holder of the trunks panics")
    }

    /// The trunk to a node; it is made if there is none. `None`: the node knows of no trunks.
    ///
    /// # Errors
    /// When the node cannot be reached, or refuses.
    pub(crate) async fn to(&self, node: &str, keys: &ClusterKeys) -> Result<Option<Trunk>, NodeRefusal> {
        let making = {
            let mut by_node = self.lock();
            by_node.retain(|_, making| is_good(making));
            let making = by_node.entry(node.to_owned()).or_insert_with(|| self.make(node, keys));
            making.clone()
        };
        match making.await? {
            Made::Trunk(trunk) => Ok(Some(trunk)),
            Made::Without(_) => Ok(None),
        }
    }

    /// Begins to make a trunk. It goes on whoever stops waiting for it.
    fn make(&self, node: &str, keys: &ClusterKeys) -> Making {
        let (address, keys) = (node.to_owned(), keys.clone());
        let (metrics, stop, running) = (self.metrics.clone(), self.stop.clone(), self.running.clone());
        let made = self.runtime.spawn(async move {
            let end = match node::open_trunk(&address, &keys).await? {
                TrunkAnswer::Taken(end) => end,
                TrunkAnswer::Unknown => return Ok(Made::Without(Instant::now() + WITHOUT)),
            };
            let trunk = Trunk::new(Some(metrics.bytes_to_client.clone()));
            let side = trunk.clone();
            running.spawn(async move {
                let _open = metrics.trunk_opened();
                // A node opens no streams.
                let run = side.run(end.stream, end.early, drop, stop).await;
                match run {
                    Ok(()) => tracing::debug!(node = address, "a trunk has ended"),
                    Err(broken) => tracing::error!(node = address, %broken, "a trunk is broken"),
                }
            });
            Ok(Made::Trunk(trunk))
        });
        made.map(|made| made.unwrap_or(Err(NodeRefusal::Broken("the broker is stopping")))).boxed().shared()
    }
}

/// Whether an attempt is under way, or came to something that still holds. It is looked at here: whoever waited for it
/// may have gone, and then nobody has seen what became of it.
fn is_good(making: &Making) -> bool {
    let _ = making.clone().now_or_never();
    match making.peek() {
        None => true,
        Some(Ok(Made::Trunk(trunk))) => !trunk.is_over(),
        Some(Ok(Made::Without(until))) => Instant::now() < *until,
        Some(Err(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came_to(made: Result<Made, NodeRefusal>) -> Making {
        std::future::ready(made).boxed().shared()
    }

    #[tokio::test]
    async fn what_holds_no_longer_is_made_again() {
        assert!(is_good(&std::future::pending().boxed().shared()), "an attempt is waited for");
        assert!(!is_good(&came_to(Err(NodeRefusal::AnswerTimeout))));
        assert!(is_good(&came_to(Ok(Made::Without(Instant::now() + WITHOUT)))));
        assert!(!is_good(&came_to(Ok(Made::Without(Instant::now())))), "the node may have been replaced");

        let trunk = Trunk::new(None);
        let making = came_to(Ok(Made::Trunk(trunk.clone())));
        assert!(is_good(&making));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
        drop(theirs);
        trunk.run(ours.unwrap(), bytes::Bytes::new(), drop, CancellationToken::new()).await.unwrap();
        assert!(!is_good(&making));
    }
}
