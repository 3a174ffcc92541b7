//! What a test of the boundary stands on: two processes' handles to one cluster, embedded or over Redis.

use std::time::Duration;

use mlms_cluster::directory::Claim;
use mlms_cluster::journal::Fence;
use mlms_cluster::relay::Relay;
use mlms_cluster::view::{NodeLoad, NodeRecord, NodeState, ShardRecord};
use mlms_cluster::{Directory, Embedded, Journal, Redis, View};
use mlms_protocol::{Epoch, Incarnation, LobbyId, NodeName, Shard};
use tokio::task::JoinHandle;

use crate::server::{self, Cluster, Server};

/// How long anything may take that is bound to happen. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One process's handles.
pub(crate) struct Process {
    pub(crate) directory: Directory,
    pub(crate) journal: Journal,
    pub(crate) relay: Relay,
    pub(crate) task: Option<JoinHandle<()>>,
}

pub(crate) async fn connect(server: &Server) -> Process {
    connect_to(&server.url(), "mlms:").await
}

pub(crate) async fn connect_to(url: &str, prefix: &str) -> Process {
    let (redis, task) = Redis::connect(url, prefix).await.unwrap();
    Process {
        directory: redis.directory(),
        journal: redis.journal(),
        relay: redis.relay(),
        task: Some(tokio::spawn(task)),
    }
}

impl Process {
    /// Lets go of everything, and waits until the connections are closed.
    pub(crate) async fn end(self) {
        let Process { directory, journal, relay, task } = self;
        drop((directory, journal, relay));
        if let Some(task) = task {
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
        }
    }
}

/// Two processes of one cluster.
pub(crate) struct Stage {
    pub(crate) a: Process,
    pub(crate) b: Process,
    pub(crate) server: Option<Server>,
}

impl Stage {
    pub(crate) async fn embedded() -> Stage {
        let embedded = Embedded::in_memory(None);
        let process = || Process {
            directory: embedded.directory(),
            journal: embedded.journal(),
            relay: embedded.relay(),
            task: None,
        };
        Stage { a: process(), b: process(), server: None }
    }

    pub(crate) async fn redis() -> Stage {
        let server = server::start().await;
        Stage { a: connect(&server).await, b: connect(&server).await, server: Some(server) }
    }
}

impl Stage {
    /// On a Redis Cluster, apart from other tests on it.
    pub(crate) async fn cluster(cluster: &Cluster, prefix: &str) -> Stage {
        let url = cluster.url();
        Stage { a: connect_to(&url, prefix).await, b: connect_to(&url, prefix).await, server: None }
    }
}

/// Makes each test twice: on the embedded parts under a paused clock, and on a real Redis.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        /// The same tests on one Redis Cluster.
        pub(crate) async fn all_on(cluster: &$crate::server::Cluster) {
            $(
                println!("{}", stringify!($test));
                $test($crate::stage::Stage::cluster(cluster, concat!(stringify!($test), ":")).await).await;
            )+
        }
        mod embedded {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test($crate::stage::Stage::embedded().await).await;
            })+
        }
        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::stage::Stage::redis().await).await;
            })+
        }
    };
}
pub(crate) use on_both;

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(crate) fn lobby(text: &str) -> LobbyId {
    LobbyId::new(text).unwrap()
}

pub(crate) fn node(text: &str, incarnation: u64) -> NodeRecord {
    NodeRecord {
        name: name(text),
        incarnation: Incarnation(incarnation),
        address: format!("{text}:7000"),
        public_url: None,
        state: NodeState::Ready,
        load: NodeLoad::default(),
    }
}

pub(crate) fn record(node: &str, incarnation: u64, epoch: u64) -> ShardRecord {
    ShardRecord { node: name(node), incarnation: Incarnation(incarnation), epoch: Epoch(epoch) }
}

/// Claims a shard that was nobody's, and gives the fence of its first append.
pub(crate) async fn own(process: &Process, shard: Shard, node: &str) -> Fence {
    let record = record(node, 1, 1);
    assert_eq!(process.directory.claim(shard, None, &record).await, Ok(Claim::Won));
    fence(&record)
}

pub(crate) fn fence(record: &ShardRecord) -> Fence {
    Fence {
        node: record.node.clone(),
        incarnation: record.incarnation,
        epoch: record.epoch,
        top: mlms_cluster::journal::EntryId::default(),
    }
}

/// Reads the view until it is as wanted.
pub(crate) async fn until(directory: &Directory, mut is_wanted: impl FnMut(&View) -> bool) {
    let reading = async {
        loop {
            if directory.refresh().await.is_ok_and(|view| is_wanted(&view)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the view becomes as wanted");
}
