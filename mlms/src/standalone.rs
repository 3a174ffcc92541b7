//! The embedded default: a broker and two nodes in one process, over the in-memory directory and relay, with
//! journal and event store in one SQLite file. A Redis or a database that the settings name takes their place.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use mlms_broker::StoreSlot;
use mlms_cluster::Embedded;
use mlms_process::{Live, Settings};
use mlms_protocol::NodeName;
use mlms_store::{Outlet, Store};
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::events::{amqp_url, outlet};
use crate::frame::{Cluster, Frame, bind, workers};

/// Two, so that the road between nodes is walked from the first day.
const NODES: usize = 2;

pub(crate) async fn run(live: Live) -> anyhow::Result<()> {
    let mut frame = Frame::new(live).await?;
    let Some(cluster) = cluster(&mut frame).await? else { return frame.run().await };
    let Some(store) = store(&frame).await? else { return frame.run().await };
    let slot = StoreSlot::default();
    // It was empty until here.
    let _ = slot.set(store.clone());
    let address = frame.start_broker(&cluster, Some(slot)).await?;
    let amqp = amqp_url(&frame.settings);
    let publisher = amqp.as_ref().map(|url| frame.start_publisher(url, "mlms standalone")).transpose()?;
    let (outlet, batches) = match &publisher {
        Some(_) => (outlet(publisher.as_ref()), None),
        None => {
            let (outlet, batches) = Outlet::local();
            (outlet, Some(batches))
        }
    };
    let nodes_ended = CancellationToken::new();
    let ending = Arc::new(nodes_ended.clone().drop_guard());
    let mut announcers = Vec::new();
    for number in 1..=NODES {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), "node.listen")?;
        let name = match frame.settings.redis.url {
            // Other processes may be there too.
            Some(_) => format!("{}-{number}", frame.settings.node.name),
            None => format!("node-{number}"),
        };
        let name =
            NodeName::new(&name).context("node.name is too long for a node of a standalone process")?;
        let node_address = listener.local_addr()?.to_string();
        let workers = workers(&frame.settings, NODES);
        let node =
            frame.start_node(&cluster, &store, &outlet, name, node_address, listener, None, workers)?;
        announcers.push(node.announcer());
        let ending = Arc::clone(&ending);
        frame.tasks.spawn("node", async move {
            node.stopped().await;
            drop(ending);
        });
    }
    drop((ending, outlet));
    match (amqp, publisher, batches) {
        (Some(url), Some(publisher), _) => {
            announcers.truncate(1);
            announcers.into_iter().for_each(|announcer| frame.start_awards(url.clone(), announcer, None));
            frame.start_achievements(&store, url, publisher)?;
        }
        (_, _, Some(batches)) => {
            frame.start_local_achievements(&store, batches, announcers, nodes_ended)?;
        }
        _ => {}
    }
    drop((cluster, store));
    tracing::info!("the page is on http://localhost:{}", address.port());
    frame.run().await
}

async fn cluster(frame: &mut Frame) -> anyhow::Result<Option<Cluster>> {
    if frame.settings.redis.url.is_some() {
        return frame.redis().await;
    }
    if frame.settings.ephemeral {
        return Ok(Some(Embedded::in_memory(None).into()));
    }
    let (embedded, writer) =
        Embedded::on_disk(&file_url(&frame.settings), false).await.context("the journal")?;
    frame.tasks.spawn("journal", writer);
    Ok(Some(embedded.into()))
}

async fn store(frame: &Frame) -> anyhow::Result<Option<Store>> {
    let settings = &frame.settings;
    match &settings.database_url {
        _ if settings.ephemeral => Ok(Some(Store::memory())),
        Some(url) => frame.open_store(url.expose_secret()).await,
        None => frame.open_store(&file_url(settings)).await,
    }
}

fn file_url(settings: &Settings) -> String {
    let file = settings.sqlite_path().unwrap_or_else(|| settings.data_dir.join("mlms.db"));
    format!("sqlite://{}", file.display())
}
