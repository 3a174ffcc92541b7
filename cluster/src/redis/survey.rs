//! What only an operator asks of Redis: how old each lease is, and how much each shard's journal holds. The tool
//! `mlms cluster status` asks it; no process that serves does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{KeysInterface, StreamsInterface};
use futures_util::future::{BoxFuture, try_join_all};
use mlms_protocol::{NodeName, Shard};

use super::keys::Keys;
use crate::directory::LEASE;
use crate::view::View;
use crate::{Directory, Unavailable};

/// The cluster at one moment, as an operator looks at it.
#[derive(Debug, Clone)]
pub struct Survey {
    pub view: Arc<View>,
    /// How long ago each node renewed its lease.
    pub renewed_ago: BTreeMap<NodeName, Duration>,
    /// Entries in each shard's journal that are not trimmed yet; shards without any are left out.
    pub entries: BTreeMap<Shard, u64>,
}

pub(super) struct Surveyor {
    pub(super) client: Client,
    pub(super) keys: Arc<Keys>,
}

impl Surveyor {
    pub(super) fn survey<'a>(
        &'a self,
        directory: &'a Directory,
    ) -> BoxFuture<'a, Result<Survey, Unavailable>> {
        Box::pin(async move {
            let view = directory.refresh().await?;
            let (renewed_ago, entries) =
                tokio::try_join!(self.leases(&view), self.journals(&view)).map_err(|error| {
                    tracing::debug!(%error, "the cluster could not be surveyed");
                    Unavailable("Redis")
                })?;
            Ok(Survey { view, renewed_ago, entries })
        })
    }

    async fn leases(&self, view: &View) -> Result<BTreeMap<NodeName, Duration>, Error> {
        let ages = view.nodes.keys().map(|name| async {
            let left: i64 = self.client.pttl(self.keys.node(name)).await?;
            // Negative: it has ended since the view was read.
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
            Ok::<_, Error>((name.clone(), LEASE.saturating_sub(left)))
        });
        Ok(try_join_all(ages).await?.into_iter().collect())
    }

    async fn journals(&self, view: &View) -> Result<BTreeMap<Shard, u64>, Error> {
        let claimed = (0..).map(Shard).zip(&view.shards).filter(|(_, record)| record.is_some());
        let lengths = claimed.map(|(shard, _)| async move {
            Ok::<_, Error>((shard, self.client.xlen::<u64, _>(self.keys.log(shard)).await?))
        });
        Ok(try_join_all(lengths).await?.into_iter().filter(|(_, entries)| *entries > 0).collect())
    }
}
