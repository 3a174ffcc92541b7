//! The embedded default: a broker and two nodes in one process, over the in-memory directory and relay, with
//! journal and event store in one SQLite file.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use mlms_broker::{Broker, BrokerConfig};
use mlms_cluster::Embedded;
use mlms_lobby_node::{Clock, LobbyNode, NodeConfig, Threads};
use mlms_process::admin::Admin;
use mlms_process::config::MayCreate;
use mlms_process::jwt::{Minter, Verifier};
use mlms_process::metrics::Metrics;
use mlms_process::shutdown::Tasks;
use mlms_process::{Health, Readiness, Settings, Shutdown};
use mlms_protocol::NodeName;
use mlms_store::Store;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Two, so that the road between nodes is walked from the first day.
const NODES: usize = 2;
/// Time for the last writes, beyond the sessions' own.
const REST: Duration = Duration::from_secs(15);

pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    let (health, readiness) = (Health::new(), Readiness::new());
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), "standalone");
    let (verifier, key_refresh) = Verifier::new(&settings.jwt)?;
    let keys = settings.cluster_keys.clone().context("a standalone process has a cluster key")?;
    let mut tasks = Tasks::new();
    let ended = CancellationToken::new();

    let (embedded, store) = open_storage(&settings, &mut tasks).await?;
    let listener = bind(settings.listen, "listen").await?;
    let admin_listener = bind(settings.admin_listen, "admin_listen").await?;

    for number in 1..=NODES {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "node.listen").await?;
        let name = NodeName::new(&format!("node-{number}")).context("a node's name")?;
        let address = listener.local_addr()?.to_string();
        let node = LobbyNode {
            config: node_config(&settings, name.clone(), address),
            directory: embedded.directory(),
            journal: embedded.journal(),
            relay: embedded.relay(),
            store: store.clone(),
            verifier: verifier.clone(),
            keys: keys.clone(),
            listener: Some(listener),
            registry: metrics.part(&[("node", name.as_str())]),
            health: health.clone(),
            readiness: readiness.clone(),
            shutdown: shutdown.clone(),
            clock: Clock::System,
            threads: Threads::Own(workers(&settings)),
        };
        tasks.spawn("node", node.start().stopped());
    }
    let broker = Broker {
        config: BrokerConfig::from(&settings),
        directory: embedded.directory(),
        verifier: verifier.clone(),
        minter: if settings.guests { Minter::new(&settings.jwt) } else { None },
        keys,
        listener,
        registry: metrics.registry().clone(),
        health: health.clone(),
        readiness: readiness.clone(),
        shutdown: shutdown.clone(),
    };
    drop(embedded);
    let broker = broker.start()?;
    let address = broker.local_addr();
    tasks.spawn_fallible("broker", broker.join());
    tasks.spawn("keys", key_refresh.run(health.component("keys"), shutdown.drain().clone()));

    let admin = Admin { health, readiness, metrics, verifier: Some(verifier), routes: axum::Router::new() };
    let admin = tokio::spawn(admin.serve(admin_listener, ended.clone()));
    let signals = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.listen().await }
    });
    if settings.ephemeral {
        tracing::warn!("--ephemeral: everything is in memory only, and gone when this process ends");
    }
    tracing::info!("the page is on http://localhost:{}", address.port());
    let outcome = tasks.run(&shutdown, settings.drain + REST).await;
    ended.cancel();
    signals.abort();
    admin.await??;
    outcome?;
    tracing::info!("stopped");
    Ok(())
}

/// Opens journal and event store. The future that writes the journal becomes one of the process's tasks.
async fn open_storage(settings: &Settings, tasks: &mut Tasks) -> anyhow::Result<(Embedded, Store)> {
    if settings.ephemeral {
        return Ok((Embedded::in_memory(None), Store::memory()));
    }
    let file = settings.sqlite_path().unwrap_or_else(|| settings.data_dir.join("mlms.db"));
    let journal_url = format!("sqlite://{}", file.display());
    let (embedded, writer) = Embedded::on_disk(&journal_url, false).await.context("the journal")?;
    tasks.spawn("journal", writer);
    let store_url = settings.database_url.as_ref().map_or(journal_url.as_str(), |url| url.expose_secret());
    let store = Store::open(store_url).await.context("the event store")?;
    store.migrate().await.context("the event store")?;
    Ok((embedded, store))
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{address} cannot be listened on; is another service there? The setting is `{setting}`")
    })
}

fn workers(settings: &Settings) -> usize {
    match settings.node.workers {
        0 => (std::thread::available_parallelism().map_or(1, usize::from) / NODES).max(1),
        workers => workers,
    }
}

fn node_config(settings: &Settings, name: NodeName, address: String) -> NodeConfig {
    NodeConfig {
        name,
        address,
        public_url: None,
        limits: settings.limits.clone(),
        heartbeat: settings.heartbeat,
        grace: settings.lobby.grace,
        empty_ttl: settings.lobby.empty_ttl,
        creators: match &settings.lobby.create {
            MayCreate::Anyone => None,
            MayCreate::Roles(roles) => Some(roles.clone()),
        },
        drain: settings.drain,
        connections_max: BrokerConfig::from(settings).connections_max,
    }
}
