//! What only an operator asks of Redis: the directory at one moment, how old each lease is, and how much each shard's
//! journal holds. The tool `mlms cluster status` asks it; no process that serves does. It writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{KeysInterface, StreamsInterface};
use futures_util::future::try_join_all;
use mlms_protocol::{NodeName, Shard};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::directory::RedisDirectory;
use super::keys::Keys;
use super::{ConnectError, check_shard_count, configure, unreachable};
use crate::directory::LEASE;
use crate::view::View;

/// The cluster at one moment, as an operator looks at it.
#[derive(Debug, Clone)]
pub struct Survey {
    pub view: View,
    /// How long ago each node renewed its lease.
    pub renewed_ago: BTreeMap<NodeName, Duration>,
    /// Entries in each shard's journal that are not trimmed yet; shards without any are left out.
    pub entries: BTreeMap<Shard, u64>,
}

pub(super) async fn survey(url: &str, prefix: &str) -> Result<Survey, ConnectError> {
    let config = configure(url, prefix)?;
    let connection = Connection::open(&config, false).await.map_err(unreachable)?;
    let outcome = look(&connection.client, prefix, config.server.is_clustered()).await;
    connection.close().await;
    outcome
}

async fn look(client: &Client, prefix: &str, is_cluster: bool) -> Result<Survey, ConnectError> {
    let keys = Arc::new(Keys::new(prefix));
    let is_counted = check_shard_count(client, &keys).await?;
    // Nobody keeps its view; it is read once.
    let (requests, _) = mpsc::channel(1);
    let directory = RedisDirectory::new(client.clone(), Arc::clone(&keys), is_cluster, requests);
    let view = directory.glance().await.map_err(unreachable)?;
    if !is_counted && view.nodes.is_empty() {
        return Err(ConnectError::Nobody(prefix.to_owned()));
    }
    let (renewed_ago, entries) =
        tokio::try_join!(leases(client, &keys, &view), journals(client, &keys, &view))
            .map_err(unreachable)?;
    Ok(Survey { view, renewed_ago, entries })
}

async fn leases(client: &Client, keys: &Keys, view: &View) -> Result<BTreeMap<NodeName, Duration>, Error> {
    let ages = view.nodes.keys().map(|name| async {
        let left: i64 = client.pttl(keys.node(name)).await?;
        // Negative: it has ended since the view was read.
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        Ok::<_, Error>((name.clone(), LEASE.saturating_sub(left)))
    });
    Ok(try_join_all(ages).await?.into_iter().collect())
}

async fn journals(client: &Client, keys: &Keys, view: &View) -> Result<BTreeMap<Shard, u64>, Error> {
    let claimed = (0..).map(Shard).zip(&view.shards).filter(|(_, record)| record.is_some());
    let lengths = claimed.map(|(shard, _)| async move {
        Ok::<_, Error>((shard, client.xlen::<u64, _>(keys.log(shard)).await?))
    });
    Ok(try_join_all(lengths).await?.into_iter().filter(|(_, entries)| *entries > 0).collect())
}
