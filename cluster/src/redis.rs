//! The cluster over Redis 7: directory, journal and relay for a process of a real deployment, on one server or a
//! Redis Cluster. Nothing of the client library is seen outside; futures leave boxed, so that crates which await
//! them do not compile the client's generic code again, each by itself.

mod connection;
mod contact;
mod directory;
mod journal;
mod keeper;
mod keys;
mod records;
mod relay;
mod survey;

use std::future::Future;
use std::sync::Arc;

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, ClusterInterface, KeysInterface};
use fred::types::config::{Config, Server};
use fred::types::{Expiration, InfoKind, SetOptions};
use futures_util::future::BoxFuture;
use mlms_protocol::placement::SHARD_COUNT;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Directory, Journal, Relay};
use connection::Connection;
use keys::Keys;

pub(crate) use directory::RedisDirectory;
pub(crate) use journal::RedisJournal;
pub(crate) use relay::RedisRelay;
pub use survey::Survey;

/// The oldest major version with what is used here: sharded pub/sub, and scripts that are taken whole or not at
/// all when memory ends.
const VERSION_MIN: u32 = 7;

/// Why a process does not start on a Redis.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the address of Redis is not one: {0}")]
    Address(String),
    #[error("the key prefix must not hold braces, spaces or control characters")]
    Prefix,
    #[error("Redis is out of reach: {0}")]
    Unreachable(String),
    #[error("Redis is of version {0}; version {VERSION_MIN} or newer is needed")]
    Version(String),
    #[error(
        "Redis may throw keys away (maxmemory-policy {0}), and with them acknowledged messages; \
         set maxmemory-policy to noeviction"
    )]
    Eviction(String),
    #[error(
        "the deployment was made for {stored} shards, this release has {SHARD_COUNT}; \
         the number cannot change during a deployment's life"
    )]
    ShardCount { stored: String },
    /// Only for who looks; who serves makes it one.
    #[error("there is no MLMS: no node and no number of shards stands in this Redis under the prefix {0:?}")]
    Nobody(String),
}

/// One process's connections to Redis; clones of its handles go to brokers and nodes.
pub struct Redis {
    directory: Directory,
    journal: Journal,
    relay: Relay,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redis")
    }
}

/// Kept by every handle; the last one that goes ends the connections.
#[derive(Clone)]
pub(crate) struct Lifeline(#[expect(dead_code, reason = "acts when it is dropped")] Arc<DropGuard>);

impl Redis {
    /// Connects, and checks that this Redis can be trusted with acknowledged messages. All keys and channels begin
    /// with `prefix`. The caller runs the future, which keeps the view and the subscriptions, and awaits it; it ends
    /// after the last handle is gone.
    ///
    /// # Errors
    /// Says what is wrong with the address, the server or its settings.
    pub async fn connect(
        url: &str,
        prefix: &str,
    ) -> Result<(Redis, impl Future<Output = ()> + Send + use<>), ConnectError> {
        Redis::open(url, prefix).await
    }

    fn open<'a>(
        url: &'a str,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<(Redis, BoxFuture<'static, ()>), ConnectError>> {
        Box::pin(Redis::open_all(url, prefix))
    }

    async fn open_all(url: &str, prefix: &str) -> Result<(Redis, BoxFuture<'static, ()>), ConnectError> {
        let config = configure(url, prefix)?;
        let is_cluster = config.server.is_clustered();
        let open = |is_subscriber| Connection::open(&config, is_subscriber);
        let first = open(false).await.map_err(unreachable)?;
        let keys = Arc::new(Keys::new(prefix));
        if let Err(error) = check(&first.client, &keys).await {
            first.close().await;
            return Err(error);
        }
        // Apart from each other, so that a flood on one does not hold up a lease's renewal.
        let (journal, publisher, subscriber) =
            tokio::try_join!(open(false), open(false), open(true)).map_err(unreachable)?;

        let (requests, requested) = mpsc::channel(keeper::REQUESTS_MAX);
        let redis_directory =
            Arc::new(RedisDirectory::new(first.client.clone(), Arc::clone(&keys), is_cluster, requests));
        let redis_journal = Arc::new(RedisJournal::new(journal.client.clone(), Arc::clone(&keys)));
        let redis_relay = Arc::new(RedisRelay::new(publisher.client.clone(), keys, is_cluster));
        let stop = CancellationToken::new();
        let lifeline = Lifeline(Arc::new(stop.clone().drop_guard()));
        let redis = Redis {
            directory: Directory::redis(Arc::clone(&redis_directory), lifeline.clone()),
            journal: Journal::redis(redis_journal, lifeline.clone()),
            relay: Relay::redis(Arc::clone(&redis_relay), lifeline),
        };
        let task = async move {
            tokio::join!(
                redis_directory.keep(requested, &stop),
                redis_relay.run(&subscriber.client, &redis_directory, &stop),
            );
            tokio::join!(first.close(), journal.close(), publisher.close(), subscriber.close());
        };
        Ok((redis, Box::pin(task)))
    }

    #[must_use]
    pub fn directory(&self) -> Directory {
        self.directory.clone()
    }

    #[must_use]
    pub fn journal(&self) -> Journal {
        self.journal.clone()
    }

    #[must_use]
    pub fn relay(&self) -> Relay {
        self.relay.clone()
    }

    /// Looks at a whole deployment once, for an operator. Writes nothing.
    ///
    /// # Errors
    /// Says what is wrong with the address, or that no deployment is there.
    pub async fn survey(url: &str, prefix: &str) -> Result<Survey, ConnectError> {
        let survey: BoxFuture<'_, _> = Box::pin(survey::survey(url, prefix));
        survey.await
    }
}

/// Where Redis is, if the address is one and the prefix can begin a key.
fn configure(url: &str, prefix: &str) -> Result<Config, ConnectError> {
    if prefix.chars().any(|c| matches!(c, '{' | '}' | ' ') || c.is_control()) {
        return Err(ConnectError::Prefix);
    }
    Config::from_url(url).map_err(|error| ConnectError::Address(error.to_string()))
}

fn unreachable(error: Error) -> ConnectError {
    ConnectError::Unreachable(error.to_string())
}

/// Looks at every server's settings, and at the deployment's number of shards.
async fn check(client: &Client, keys: &Keys) -> Result<(), ConnectError> {
    let servers: Vec<Option<Server>> = match client.cached_cluster_state() {
        Some(state) => state.unique_primary_nodes().into_iter().map(Some).collect(),
        None => vec![None],
    };
    for server in servers {
        let info: String = match &server {
            Some(server) => client.with_cluster_node(server).info(Some(InfoKind::All)).await,
            None => client.info(Some(InfoKind::All)).await,
        }
        .map_err(unreachable)?;
        check_info(&info)?;
    }
    store_shard_count(client, keys).await.map_err(unreachable)?;
    check_shard_count(client, keys).await.map(drop)
}

/// Writes down how many shards the deployment has, if nothing stands there.
async fn store_shard_count(client: &Client, keys: &Keys) -> Result<(), Error> {
    let options = Some(SetOptions::NX);
    client.set(keys.shard_count(), SHARD_COUNT.to_string(), None::<Expiration>, options, false).await
}

/// Whether a number of shards stands there. One that is not this release's is an error.
async fn check_shard_count(client: &Client, keys: &Keys) -> Result<bool, ConnectError> {
    let stored: Option<String> = client.get(keys.shard_count()).await.map_err(unreachable)?;
    match stored {
        Some(stored) if stored != SHARD_COUNT.to_string() => Err(ConnectError::ShardCount { stored }),
        stored => Ok(stored.is_some()),
    }
}

/// Judges what a server says about itself. INFO is allowed where CONFIG is not.
fn check_info(info: &str) -> Result<(), ConnectError> {
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim()
    };
    let version = field("redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < VERSION_MIN) {
        return Err(ConnectError::Version(version.to_owned()));
    }
    let policy = field("maxmemory_policy");
    if policy != "noeviction" {
        return Err(ConnectError::Eviction(policy.to_owned()));
    }
    if field("aof_enabled") != "1" {
        tracing::warn!(
            "Redis has no append-only file: its death loses acknowledged messages; set appendonly yes"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(version: &str, policy: &str) -> String {
        format!(
            "# Server\r\nredis_version:{version}\r\n# Memory\r\nmaxmemory_policy:{policy}\r\naof_enabled:1\r\n"
        )
    }

    #[test]
    fn a_redis_that_is_too_old_or_evicts_is_refused() {
        assert!(check_info(&info("7.0.15", "noeviction")).is_ok());
        assert!(check_info(&info("8.2.1", "noeviction")).is_ok());
        assert!(matches!(check_info(&info("6.2.7", "noeviction")), Err(ConnectError::Version(_))));
        assert!(matches!(check_info(&info("7.0.15", "allkeys-lru")), Err(ConnectError::Eviction(_))));
        assert!(matches!(check_info(""), Err(ConnectError::Version(_))));
    }
}
