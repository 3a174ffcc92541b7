//! The real servers of these tests: a redis-server, and a Redis Cluster. They end with their tests.

use std::time::{Duration, Instant};

pub(crate) use mlms_test_servers::Redis as Server;

/// How long a cluster may take to form. Generous: the machine may be busy.
const START: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(10);

/// A server as deployments have it: its append-only file is flushed once a second.
pub(crate) async fn start() -> Server {
    start_with(&[]).await
}

pub(crate) async fn start_with(settings: &[&str]) -> Server {
    Server::start_with(&[&["--appendfsync", "everysec"], settings].concat()).await
}

/// A Redis Cluster of three masters without replicas.
pub(crate) struct Cluster(Vec<Server>);

impl Cluster {
    pub(crate) async fn start() -> Cluster {
        let mut servers = Vec::new();
        let mut buses = Vec::new();
        for slots in ["0 5460", "5461 10922", "10923 16383"] {
            let bus = mlms_test_servers::free_port();
            let server = start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus.to_string()]).await;
            assert_eq!(server.ask(&format!("CLUSTER ADDSLOTSRANGE {slots}")), "+OK");
            servers.push(server);
            buses.push(bus);
        }
        for (server, bus) in servers.iter().zip(&buses).skip(1) {
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", server.port());
            assert_eq!(servers[0].ask(&meet), "+OK");
        }
        let began = Instant::now();
        let knows_all = |server: &Server| {
            let info = server.ask_all("CLUSTER INFO");
            info.contains("cluster_state:ok") && info.contains("cluster_size:3")
        };
        while !servers.iter().all(knows_all) {
            assert!(began.elapsed() < START, "the cluster does not form");
            tokio::time::sleep(PAUSE).await;
        }
        Cluster(servers)
    }

    pub(crate) fn url(&self) -> String {
        self.0[0].url().replace("redis:", "redis-cluster:")
    }

    pub(crate) fn kill_subscribers(&self) {
        for server in &self.0 {
            server.kill_subscribers();
        }
    }
}
