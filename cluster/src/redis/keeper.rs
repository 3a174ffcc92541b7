//! Keeps the view current: reads the whole table every two seconds, when a lease ends, and when somebody asks, and
//! applies what others tell in between. While Redis is away the last view stays.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fred::error::Error;
use fred::interfaces::{ClientLike, EventInterface, KeysInterface, SetsInterface};
use fred::types::{CustomCommand, Value};
use futures_util::future::try_join_all;
use mlms_protocol::placement::SHARD_COUNT;
use mlms_protocol::{NodeName, Shard};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::directory::RedisDirectory;
use super::records::{read_lease, read_owner};
use crate::Unavailable;
use crate::directory::RENEWAL;
use crate::view::{NodeRecord, ShardRecord, View};

/// Readings that may be waited for; further callers wait for a place.
pub(super) const REQUESTS_MAX: usize = 1_024;
/// Least time between two readings, so that many changes at once cost a few.
const PAUSE: Duration = Duration::from_millis(5);
/// Names of nodes that were absent for so long are struck from the set; a renewal brings one back.
const ABSENCE_MAX: Duration = Duration::from_secs(600);

/// Somebody wants a reading that begins after now.
pub(super) struct Request {
    pub(super) answer: Option<oneshot::Sender<Result<Arc<View>, Unavailable>>>,
}

/// Records that were told while a reading was under way, which may have seen older ones.
#[derive(Debug, Default)]
pub(super) struct Told {
    shards: HashMap<Shard, ShardRecord>,
}

struct Reading {
    nodes: BTreeMap<NodeName, NodeRecord>,
    shards: Vec<Option<ShardRecord>>,
    /// Nodes whose leases are no more: run out, or ended.
    absent: Vec<NodeName>,
    retired: Vec<NodeName>,
    /// When the first of the leases ends.
    next_end: Option<Duration>,
    skew: Duration,
}

impl RedisDirectory {
    /// Keeps the view until told to stop.
    pub(super) async fn keep(&self, mut requests: mpsc::Receiver<Request>, stop: &CancellationToken) {
        let mut reconnects = self.client.reconnect_rx();
        let mut next = Instant::now();
        let mut absences: HashMap<NodeName, Instant> = HashMap::new();
        let mut is_away = false;
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = reconnects.recv() => self.contact().on_broken(),
                Some(request) = requests.recv() => waiting.extend(request.answer),
                () = tokio::time::sleep_until(next) => {}
            }
            while let Ok(request) = requests.try_recv() {
                waiting.extend(request.answer);
            }
            let began = Instant::now();
            self.told().shards.clear();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.read() => outcome,
            };
            let answer = match outcome {
                Ok(reading) => {
                    if is_away {
                        tracing::info!("the directory answers again");
                    }
                    is_away = false;
                    self.contact().on_read(began, Instant::now(), reading.skew);
                    self.strike(&mut absences, &reading.absent).await;
                    let end = reading.next_end.map_or(RENEWAL, |end| end + PAUSE);
                    next = Instant::now() + end.clamp(PAUSE, RENEWAL);
                    Ok(self.show(reading))
                }
                Err(error) => {
                    if !is_away {
                        tracing::warn!(%error, "the directory does not answer; the last view stays");
                    }
                    is_away = true;
                    self.contact().on_broken();
                    next = Instant::now() + RENEWAL / 4;
                    Err(Unavailable("the directory"))
                }
            };
            for caller in waiting {
                // A caller that went away needs no answer.
                _ = caller.send(answer.clone());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reads the table once, for somebody who does not keep it.
    pub(super) async fn glance(&self) -> Result<View, Error> {
        let Reading { nodes, shards, .. } = self.read().await?;
        Ok(View { nodes, shards, lost: 0 })
    }

    async fn read(&self) -> Result<Reading, Error> {
        let names: Vec<String> = self.client.smembers(self.keys.nodes()).await?;
        let names: Vec<NodeName> = names.iter().filter_map(|name| NodeName::new(name).ok()).collect();
        let leases = try_join_all(names.iter().map(|name| async {
            let key = self.keys.node(name);
            tokio::try_join!(
                self.client.get::<Option<String>, _>(key.as_str()),
                self.client.pttl::<i64, _>(key.as_str())
            )
        }));
        let (leases, shards, skew) = tokio::try_join!(leases, self.read_shards(), self.read_clock())?;
        let mut reading = Reading {
            nodes: BTreeMap::new(),
            shards,
            absent: Vec::new(),
            retired: Vec::new(),
            next_end: None,
            skew,
        };
        for (name, (lease, ends_ms)) in names.into_iter().zip(leases) {
            match lease.as_deref().and_then(read_lease) {
                Some(record) if record.name == name => {
                    // Negative: it ended between the two questions, or somebody made it last for ever.
                    let end = u64::try_from(ends_ms).map_or(RENEWAL, Duration::from_millis);
                    reading.next_end = Some(reading.next_end.map_or(end, |next| next.min(end)));
                    reading.nodes.insert(name, record);
                }
                _ => {
                    if lease.is_some() {
                        reading.retired.push(name.clone());
                    }
                    reading.absent.push(name);
                }
            }
        }
        Ok(reading)
    }

    async fn read_shards(&self) -> Result<Vec<Option<ShardRecord>>, Error> {
        let keys = (0..SHARD_COUNT).map(|number| self.keys.own(Shard(number)));
        let records: Vec<Option<String>> = if self.is_cluster {
            // Keys of several slots do not go into one command.
            try_join_all(keys.map(|key| self.client.get(key))).await?
        } else {
            self.client.mget(keys.collect::<Vec<_>>()).await?
        };
        Ok(records.iter().map(|record| read_owner(record.as_deref()?)).collect())
    }

    /// The difference between this machine's clock and Redis's, less what the way there and back can explain.
    async fn read_clock(&self) -> Result<Duration, Error> {
        let began = Instant::now();
        let command = CustomCommand::new_static("TIME", None, false);
        let answer: Value = self.client.custom(command, Vec::<Value>::new()).await?;
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let way = began.elapsed();
        let mut parts = answer.into_array().into_iter().map(|part| part.as_u64().unwrap_or(0));
        let (seconds, micros) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        let there = Duration::from_secs(seconds) + Duration::from_micros(micros);
        Ok(here.abs_diff(there).saturating_sub(way))
    }

    /// Forgets the names of nodes that have long been gone.
    async fn strike(&self, absences: &mut HashMap<NodeName, Instant>, absent: &[NodeName]) {
        let now = Instant::now();
        absences.retain(|name, _| absent.contains(name));
        for name in absent {
            let since = absences.entry(name.clone()).or_insert(now);
            if now.duration_since(*since) > ABSENCE_MAX {
                *since = now;
                if let Err(error) = self.client.srem::<i64, _, _>(self.keys.nodes(), name.as_str()).await {
                    tracing::debug!(%name, %error, "a node's name could not be struck");
                }
            }
        }
    }

    fn show(&self, reading: Reading) -> Arc<View> {
        let told = self.told();
        let mut view = View { nodes: reading.nodes, shards: reading.shards, lost: 0 };
        for (shard, record) in &told.shards {
            merge(&mut view, *shard, record);
        }
        let former = self.view();
        let raw = view.shards.clone();
        if view.follow(&former) {
            // The same loss is seen at every reading until the owners have claimed anew.
            let is_new = self.contact().on_lost(&raw, &view.shards);
            if is_new {
                tracing::error!("the directory has lost records; their owners claim them anew");
            } else {
                view.lost = former.lost;
            }
        }
        if !self.contact().proves_absence(Instant::now()) {
            // Leases ran out unseen, or went with lost records: they live until the nodes had the time to renew them.
            let retired = &reading.retired;
            for (name, record) in former.nodes.iter().filter(|(name, _)| !retired.contains(name)) {
                view.nodes.entry(name.clone()).or_insert_with(|| record.clone());
            }
        }
        self.view.send_if_modified(|shown| {
            let same_nodes = shown.nodes.len() == view.nodes.len()
                && shown.nodes.values().zip(view.nodes.values()).all(|(old, new)| new.is_no_news(old));
            let is_new = !same_nodes || shown.shards != view.shards || shown.lost != view.lost;
            *shown = Arc::new(view);
            is_new
        });
        self.view()
    }

    /// Takes over a shard's record that was told or won.
    pub(super) fn apply(&self, shard: Shard, record: &ShardRecord) {
        // Held until the view has it, so that a reading that ends now does not pass it by.
        let mut told = self.told();
        told.shards.insert(shard, record.clone());
        self.view.send_if_modified(|shown| {
            let is_new = shown.record(shard).is_none_or(|known| known.epoch < record.epoch);
            is_new && merge(Arc::make_mut(shown), shard, record)
        });
    }

    /// Somebody has told a change.
    pub(super) fn on_change(&self, message: &str) {
        let own = message.strip_prefix("own ").and_then(|rest| rest.split_once(' '));
        let own = own.and_then(|(shard, record)| Some((Shard(shard.parse().ok()?), read_owner(record)?)));
        match own {
            Some((shard, record)) => self.apply(shard, &record),
            None => self.look(),
        }
    }
}

/// Puts a record into a view, unless a newer one stands there.
fn merge(view: &mut View, shard: Shard, record: &ShardRecord) -> bool {
    let Some(slot) = view.shards.get_mut(usize::from(shard.0)) else { return false };
    let is_newer = slot.as_ref().is_none_or(|known| known.epoch < record.epoch);
    if is_newer {
        *slot = Some(record.clone());
    }
    is_newer
}
