//! The roles of a real deployment, each a process of its own over Redis.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mlms_broker::StoreSlot;
use mlms_process::Live;
use mlms_store::Store;
use secrecy::ExposeSecret;

use crate::events::{amqp_url, outlet};
use crate::frame::{Frame, bind, workers};

/// Pause between attempts of a broker to reach the database.
const STORE_PAUSE: Duration = Duration::from_secs(2);

/// The stateless edge.
pub(crate) async fn broker(live: Live) -> anyhow::Result<()> {
    let mut frame = Frame::new(live).await?;
    let Some(cluster) = frame.redis().await? else { return frame.run().await };
    let players = players(&mut frame);
    let address = frame.start_broker(&cluster, players).await?;
    drop(cluster);
    tracing::info!(%address, "the broker serves");
    frame.run().await
}

/// What players have done, where a database is named. A broker serves everything else while it is away.
fn players(frame: &mut Frame) -> Option<StoreSlot> {
    let url = frame.settings.database_url.clone()?;
    let (slot, stop) = (StoreSlot::default(), frame.shutdown.drain().clone());
    let (component, opened) = (frame.health.component("database"), Arc::clone(&slot));
    frame.tasks.spawn("database", async move {
        let open = async {
            loop {
                match Store::open(url.expose_secret()).await {
                    Ok(store) => return store,
                    Err(error) => component.degraded(error.to_string()),
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            store = open => {
                component.ok();
                // Nobody else fills it.
                let _ = opened.set(store);
            }
        }
    });
    Some(slot)
}

/// A node that holds sessions and owns lobbies.
pub(crate) async fn lobby_node(live: Live) -> anyhow::Result<()> {
    let mut frame = Frame::new(live).await?;
    let Some(cluster) = frame.redis().await? else { return frame.run().await };
    let url = frame.settings.database_url.clone().context("the settings name a database")?;
    let Some(store) = frame.open_store(url.expose_secret()).await? else { return frame.run().await };
    let listener = bind(frame.settings.node.listen, "node.listen")?;
    let (name, address) = (frame.settings.node.name.clone(), frame.settings.node.address.clone());
    let workers = workers(&frame.settings, 1);
    let former_run = frame.former_run(&cluster, &name).await?;
    let amqp = amqp_url(&frame.settings);
    let publisher =
        amqp.as_ref().map(|url| frame.start_publisher(url, &format!("mlms {name}"))).transpose()?;
    tracing::info!(%name, address, "the node serves");
    let node = frame.start_node(
        &cluster,
        &store,
        &outlet(publisher.as_ref()),
        name,
        address,
        listener,
        former_run,
        workers,
    )?;
    if let Some(url) = amqp {
        let counting = frame.health.component("achievements").spare();
        frame.start_awards(url, node.announcer(), Some(counting));
    }
    frame.tasks.spawn("node", node.stopped());
    drop((cluster, store, publisher));
    frame.run().await
}

/// The service that counts games and awards achievements.
pub(crate) async fn achievements(live: Live) -> anyhow::Result<()> {
    let mut frame = Frame::new(live).await?;
    let database = frame.settings.database_url.clone().context("the settings name a database")?;
    let Some(store) = frame.open_store(database.expose_secret()).await? else { return frame.run().await };
    let amqp = amqp_url(&frame.settings).context("the settings name a message broker")?;
    let publisher = frame.start_publisher(&amqp, "mlms achievements")?;
    frame.start_achievements(&store, amqp, publisher)?;
    tracing::info!("achievements are counted");
    frame.run().await
}
