//! The journal on Redis Streams: one stream and one hash of snapshots a shard, guarded by the shard's record.

use std::sync::Arc;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{HashesInterface, StreamsInterface};
use fred::types::Value;
use futures_util::future::BoxFuture;
use mlms_protocol::{LobbyId, Shard};

use super::connection::{Script, script};
use super::keys::Keys;
use super::records::{read_id, write_id, write_owner};
use crate::Unavailable;
use crate::journal::{AppendError, EntryId, Fence, Loaded};
use crate::view::ShardRecord;

/// Entries in one answer of a load; with all of them as large as a frame may be, an answer takes 16 MiB.
const ENTRIES_PAGE: u64 = 256;
/// Snapshots in one answer of a load.
const SNAPSHOTS_PAGE: usize = 32;
/// Bytes after which a save goes on in another script, so that Redis serves others in between.
const SAVE_BYTES: usize = 1 << 20;
/// A field of the snapshots' hash that no lobby can have: the top of the newest writer to it.
const MARK: &str = "#";

static APPEND: Script = script!("append");
static SNAPSHOTS: Script = script!("snapshots");
static TRIM: Script = script!("trim");

/// The journal's side of a connection to Redis.
pub(crate) struct RedisJournal {
    client: Client,
    keys: Arc<Keys>,
}

fn owner(fence: &Fence) -> Value {
    let record = ShardRecord { node: fence.node.clone(), incarnation: fence.incarnation, epoch: fence.epoch };
    write_owner(&record).into()
}

fn unclear(shard: Shard, what: &'static str) -> impl FnOnce(Error) -> AppendError {
    move |error| {
        tracing::debug!(%shard, %error, what, "no clear answer from Redis");
        AppendError::Unclear
    }
}

fn unavailable(shard: Shard) -> impl Fn(Error) -> Unavailable + Copy {
    move |error| {
        tracing::debug!(%shard, %error, "the journal could not be read or trimmed");
        Unavailable("the journal")
    }
}

impl RedisJournal {
    pub(super) fn new(client: Client, keys: Arc<Keys>) -> Self {
        RedisJournal { client, keys }
    }

    pub(crate) fn append<'a>(
        &'a self,
        shard: Shard,
        fence: &'a Fence,
        entries: &'a [Bytes],
    ) -> BoxFuture<'a, Result<EntryId, AppendError>> {
        Box::pin(async move {
            let first = fence.top.following(fence.epoch);
            let last = match entries.len() as u64 {
                0 => fence.top,
                count => EntryId { n: first.n + count - 1, ..first },
            };
            let mut arguments = Vec::with_capacity(5 + entries.len());
            arguments.extend([
                owner(fence),
                write_id(fence.top).into(),
                write_id(last).into(),
                first.epoch.to_string().into(),
                first.n.to_string().into(),
            ]);
            arguments.extend(entries.iter().cloned().map(Value::Bytes));
            let keys = vec![self.keys.own(shard), self.keys.log(shard)];
            let answer = APPEND.run(&self.client, keys, arguments).await.map_err(unclear(shard, "append"))?;
            match answer.as_i64() {
                Some(1) => Ok(last),
                Some(0) => Err(AppendError::Deposed),
                Some(-1) => Err(AppendError::Behind),
                _ => Err(AppendError::Unclear),
            }
        })
    }

    pub(crate) fn load<'a>(&'a self, shard: Shard) -> BoxFuture<'a, Result<Loaded, Unavailable>> {
        Box::pin(async move {
            // Snapshots first: a trim by the former owner, late on its way, takes only what they cover.
            let snapshots = self.load_snapshots(shard).await.map_err(unavailable(shard))?;
            let entries = self.load_entries(shard, None).await?;
            Ok(Loaded { snapshots, ..entries })
        })
    }

    pub(crate) fn load_tail<'a>(
        &'a self,
        shard: Shard,
        after: EntryId,
    ) -> BoxFuture<'a, Result<Loaded, Unavailable>> {
        Box::pin(self.load_entries(shard, Some(after)))
    }

    async fn load_entries(&self, shard: Shard, after: Option<EntryId>) -> Result<Loaded, Unavailable> {
        let mut loaded = Loaded { top: after.unwrap_or_default(), ..Loaded::default() };
        let log = self.keys.log(shard);
        let mut from = after.map_or_else(|| "-".to_owned(), |after| format!("({}", write_id(after)));
        loop {
            let page: Value = self
                .client
                .xrange(log.as_str(), from.as_str(), "+", Some(ENTRIES_PAGE))
                .await
                .map_err(unavailable(shard))?;
            let page = page.into_array();
            let is_last = (page.len() as u64) < ENTRIES_PAGE;
            for entry in page {
                let Some((id, bytes)) = read_entry(entry) else {
                    tracing::error!(%shard, "an entry of the journal is not one of ours; the shard is not served");
                    return Err(Unavailable("the journal of this shard"));
                };
                loaded.top = id;
                loaded.entries.push((id, bytes));
            }
            if is_last {
                return Ok(loaded);
            }
            from = format!("({}", write_id(loaded.top));
        }
    }

    async fn load_snapshots(&self, shard: Shard) -> Result<Vec<(LobbyId, Bytes)>, Error> {
        let key = self.keys.snap(shard);
        let mut fields: Vec<String> = self.client.hkeys(key.as_str()).await?;
        fields.retain(|field| field != MARK);
        let mut snapshots = Vec::with_capacity(fields.len());
        for page in fields.chunks(SNAPSHOTS_PAGE) {
            let values: Value = self.client.hmget(key.as_str(), page.to_vec()).await?;
            for (lobby, value) in page.iter().zip(values.into_array()) {
                match (LobbyId::new(lobby), value.into_bytes()) {
                    (Ok(lobby), Some(bytes)) => snapshots.push((lobby, bytes)),
                    (Err(error), _) => tracing::error!(%shard, lobby, %error, "a snapshot without a lobby"),
                    // Removed since its name was read.
                    (Ok(_), None) => {}
                }
            }
        }
        Ok(snapshots)
    }

    pub(crate) fn save_snapshots<'a>(
        &'a self,
        shard: Shard,
        fence: &'a Fence,
        changed: Vec<(LobbyId, Option<Bytes>)>,
    ) -> BoxFuture<'a, Result<(), AppendError>> {
        Box::pin(async move {
            let mut changed = changed.into_iter().peekable();
            loop {
                let mut arguments =
                    vec![owner(fence), fence.top.epoch.to_string().into(), fence.top.n.to_string().into()];
                let mut bytes = 0;
                while bytes < SAVE_BYTES {
                    let Some((lobby, snapshot)) = changed.next() else { break };
                    bytes += 128 + snapshot.as_ref().map_or(0, Bytes::len);
                    let is_present = if snapshot.is_some() { "1" } else { "0" };
                    let snapshot = Value::Bytes(snapshot.unwrap_or_default());
                    arguments.extend([lobby.as_str().into(), is_present.into(), snapshot]);
                }
                let keys = vec![self.keys.own(shard), self.keys.snap(shard)];
                let answer = SNAPSHOTS
                    .run(&self.client, keys, arguments)
                    .await
                    .map_err(unclear(shard, "snapshots"))?;
                match answer.as_i64() {
                    Some(1) => {}
                    Some(0) => return Err(AppendError::Deposed),
                    // A later save has overtaken this one; what it holds is newer.
                    _ => return Err(AppendError::Unclear),
                }
                if changed.peek().is_none() {
                    return Ok(());
                }
            }
        })
    }

    pub(crate) fn trim<'a>(
        &'a self,
        shard: Shard,
        through: EntryId,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        Box::pin(async move {
            let arguments = vec![through.epoch.to_string().into(), through.n.to_string().into()];
            let keys = vec![self.keys.log(shard)];
            TRIM.run(&self.client, keys, arguments).await.map_err(unavailable(shard))?;
            Ok(())
        })
    }
}

/// An entry as XRANGE gives it: its id, and one field with its value.
fn read_entry(value: Value) -> Option<(EntryId, Bytes)> {
    let mut parts = value.into_array().into_iter();
    let id = read_id(&parts.next()?.as_str()?)?;
    let field = parts.next()?.into_array().into_iter().nth(1)?;
    Some((id, field.into_bytes()?))
}
