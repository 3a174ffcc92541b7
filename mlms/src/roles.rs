//! The roles of a real deployment, each a process of its own over Redis.

use anyhow::Context;
use mlms_process::Live;
use secrecy::ExposeSecret;

use crate::frame::{Frame, bind, open_store, workers};

/// The stateless edge.
pub(crate) async fn broker(live: Live) -> anyhow::Result<()> {
    let mut frame = Frame::new(live).await?;
    let cluster = frame.redis().await?;
    let address = frame.start_broker(&cluster).await?;
    drop(cluster);
    tracing::info!(%address, "the broker serves");
    frame.run().await
}

/// A node that holds sessions and owns lobbies.
pub(crate) async fn lobby_node(live: Live) -> anyhow::Result<()> {
    let mut frame = Frame::new(live).await?;
    let cluster = frame.redis().await?;
    let url = frame.settings.database_url.clone().context("the settings name a database")?;
    let store = open_store(url.expose_secret()).await?;
    let listener = bind(frame.settings.node.listen, "node.listen").await?;
    let (name, address) = (frame.settings.node.name.clone(), frame.settings.node.address.clone());
    let workers = workers(&frame.settings, 1);
    tracing::info!(%name, address, "the node serves");
    frame.start_node(&cluster, &store, name, address, listener, workers);
    drop((cluster, store));
    frame.run().await
}
