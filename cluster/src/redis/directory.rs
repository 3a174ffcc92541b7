//! The directory in Redis: leases, the shards' records, users' sessions, lists of lobbies. `keeper` holds the view
//! of it current.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{HashesInterface, KeysInterface, SetsInterface, SortedSetsInterface};
use fred::types::{Expiration, Value};
use futures_util::future::BoxFuture;
use mlms_protocol::lobby::Visibility;
use mlms_protocol::{Incarnation, LobbyId, NodeName, SessionId, Shard, UserId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::connection::{Script, script};
use super::contact::Contact;
use super::keeper::{Request, Told};
use super::keys::Keys;
use super::records::{is_retired, read_lease, read_owner, write_incarnation, write_owner};
use super::relay::publish;
use super::store_shard_count;
use crate::Unavailable;
use crate::directory::{Claim, LEASE, Renewal, SessionRecord};
use crate::view::{LobbySummary, NodeRecord, NodeState, ShardRecord, View};

/// A user's sessions are kept for so long after the last one came. Those of a dead node are not counted meanwhile.
const SESSIONS_KEPT_MS: i64 = 7 * 24 * 3_600 * 1_000;
/// Sessions of an unknown node are forgotten at this age, in microseconds: it may have come a moment ago.
const UNKNOWN_KEPT_US: u64 = 60 * 1_000_000;
/// A list of lobbies outlives an outage of Redis, and its node's lease by no more than this.
const LOBBIES_KEPT_MS: i64 = 3_600 * 1_000;
/// The number of a node's newest run is known for so long after its end. Others forget it sooner.
const RUN_KEPT_MS: i64 = 24 * 3_600 * 1_000;
/// Lines of a list of lobbies in one script.
const LOBBIES_PAGE: usize = 200;

static CLAIM: Script = script!("claim");
static RENEW: Script = script!("renew");
static RETIRE: Script = script!("retire");
static ADD_SESSION: Script = script!("add_session");
static PUBLISH_LOBBIES: Script = script!("publish_lobbies");

/// The directory's side of the connections to Redis.
pub(crate) struct RedisDirectory {
    pub(super) client: Client,
    pub(super) keys: Arc<Keys>,
    pub(super) is_cluster: bool,
    pub(super) view: watch::Sender<Arc<View>>,
    contact: Mutex<Contact>,
    told: Mutex<Told>,
    keeper: mpsc::Sender<Request>,
    /// The state of each node of this process as others were last told it.
    announced: Mutex<HashMap<NodeName, NodeState>>,
}

/// What a command that failed means to the caller.
fn unavailable(what: &'static str) -> impl FnOnce(Error) -> Unavailable {
    move |error| {
        tracing::debug!(%error, what, "no answer from Redis");
        Unavailable("the directory")
    }
}

impl RedisDirectory {
    pub(super) fn new(
        client: Client,
        keys: Arc<Keys>,
        is_cluster: bool,
        keeper: mpsc::Sender<Request>,
    ) -> Self {
        RedisDirectory {
            client,
            keys,
            is_cluster,
            view: watch::Sender::new(Arc::new(View::empty())),
            contact: Mutex::default(),
            told: Mutex::default(),
            keeper,
            announced: Mutex::default(),
        }
    }

    pub(super) fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Asks for a reading, without waiting for it. When the keeper has enough to do, it reads anyway.
    pub(super) fn look(&self) {
        _ = self.keeper.try_send(Request { answer: None });
    }

    pub(crate) fn refresh<'a>(&'a self) -> BoxFuture<'a, Result<Arc<View>, Unavailable>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let unavailable = Unavailable("the directory");
            self.keeper.send(Request { answer: Some(answer) }).await.map_err(|_| unavailable)?;
            answered.await.unwrap_or(Err(unavailable))
        })
    }

    /// Tells the other processes that something has changed. Who does not hear it finds out by reading.
    async fn tell(&self, message: String) {
        let told = publish(&self.client, self.is_cluster, self.keys.changes(), message.into()).await;
        if let Err(error) = told {
            tracing::debug!(%error, "a change of the directory was not told");
        }
    }

    // --- leases

    pub(crate) fn renew<'a>(&'a self, record: &'a NodeRecord) -> BoxFuture<'a, Result<Renewal, Unavailable>> {
        Box::pin(async move {
            let began = Instant::now();
            match self.try_renew(record, began).await {
                Ok(renewal) => Ok(renewal),
                Err(error) => {
                    self.contact().on_broken();
                    Err(unavailable("renew")(error))
                }
            }
        })
    }

    async fn try_renew(&self, record: &NodeRecord, began: Instant) -> Result<Renewal, Error> {
        let json = serde_json::to_string(record).expect("a node's record is plain text and numbers");
        let milliseconds = i64::try_from(LEASE.as_millis()).expect("a lease is short");
        let arguments = vec![write_incarnation(record.incarnation).into(), json.into(), milliseconds.into()];
        let keys = vec![self.keys.node(&record.name)];
        let lobbies = self.keys.lobbies(&record.name);
        let (listed, answer, kept) = tokio::join!(
            self.client.sadd::<i64, _, _>(self.keys.nodes(), record.name.as_str()),
            RENEW.run(&self.client, keys, arguments),
            self.client.pexpire::<i64, _>(lobbies.as_str(), LOBBIES_KEPT_MS, None),
        );
        if let Err(error) = kept {
            tracing::debug!(%error, "the list of lobbies was not renewed");
        }
        // A lease that nobody lists would be a node that nobody finds.
        listed?;
        if answer?.as_i64() != Some(1) {
            return Ok(Renewal::Superseded);
        }
        self.remember(record).await;
        let is_new = self.contact().on_renewed(&record.name, record.incarnation, began);
        if is_new {
            // The list of a former run.
            if let Err(error) = self.client.del::<i64, _>(lobbies).await {
                tracing::debug!(%error, "the list of lobbies of a former run stays");
            }
        }
        let announced = self.announced().insert(record.name.clone(), record.state);
        if is_new || announced != Some(record.state) {
            self.tell("nodes".to_owned()).await;
        }
        Ok(Renewal::Held)
    }

    /// Writes what must outlive the lease, again with each renewal: a Redis that was emptied has lost it. What fails now
    /// is written with the next.
    async fn remember(&self, record: &NodeRecord) {
        let (run, kept) = (record.incarnation.0.to_string(), Some(Expiration::PX(RUN_KEPT_MS)));
        let run = self.client.set::<(), _, _>(self.keys.run(&record.name), run, kept, None, false);
        let (run, count) = tokio::join!(run, store_shard_count(&self.client, &self.keys));
        if let Err(error) = run.and(count) {
            tracing::debug!(%error, "the node's run was not written");
        }
    }

    pub(crate) fn former_run<'a>(
        &'a self,
        node: &'a NodeName,
    ) -> BoxFuture<'a, Result<Option<Incarnation>, Unavailable>> {
        Box::pin(async move {
            let (lease, run) = tokio::try_join!(
                self.client.get::<Option<String>, _>(self.keys.node(node)),
                self.client.get::<Option<String>, _>(self.keys.run(node)),
            )
            .map_err(unavailable("run"))?;
            // Of a lease that was ended, too: it is still in the way of an older run.
            let lease = lease.and_then(|lease| lease.split(' ').next()?.parse().ok());
            let run = run.and_then(|run| run.parse().ok());
            Ok(lease.max(run).map(Incarnation))
        })
    }

    fn announced(&self) -> MutexGuard<'_, HashMap<NodeName, NodeState>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn retire<'a>(
        &'a self,
        node: &'a NodeName,
        incarnation: Incarnation,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        Box::pin(async move {
            self.contact().on_retired(node);
            self.announced().remove(node);
            let keys = vec![self.keys.node(node)];
            let kept = i64::try_from(LEASE.as_millis()).expect("a lease is short");
            let arguments = vec![write_incarnation(incarnation).into(), kept.into()];
            let answer = RETIRE.run(&self.client, keys, arguments).await.map_err(unavailable("retire"))?;
            if answer.as_i64() == Some(1) {
                self.tell("nodes".to_owned()).await;
            }
            Ok(())
        })
    }

    // --- shards

    pub(crate) fn claim<'a>(
        &'a self,
        shard: Shard,
        expected: Option<&'a ShardRecord>,
        new: &'a ShardRecord,
    ) -> BoxFuture<'a, Result<Claim, Unavailable>> {
        Box::pin(async move {
            self.contact().check_clock().map_err(Unavailable)?;
            if let Some(owner) = expected {
                let is_own = owner.node == new.node || self.contact().runs(owner);
                if !is_own && self.lives(owner, new).await? {
                    return Ok(Claim::Lost(Some(owner.clone())));
                }
            }
            self.replace(shard, expected, new).await
        })
    }

    pub(crate) fn take_back<'a>(
        &'a self,
        shard: Shard,
        expected: Option<&'a ShardRecord>,
        new: &'a ShardRecord,
    ) -> BoxFuture<'a, Result<Claim, Unavailable>> {
        Box::pin(self.replace(shard, expected, new))
    }

    /// Replaces a shard's record if it is what the claimant expects.
    async fn replace(
        &self,
        shard: Shard,
        expected: Option<&ShardRecord>,
        new: &ShardRecord,
    ) -> Result<Claim, Unavailable> {
        let expected = expected.map(write_owner).unwrap_or_default();
        let arguments = vec![expected.into(), write_owner(new).into()];
        let keys = vec![self.keys.own(shard)];
        let answer = CLAIM.run(&self.client, keys, arguments).await.map_err(unavailable("claim"))?;
        let mut answer = answer.into_array().into_iter();
        let is_won = answer.next().and_then(|won| won.as_i64()) == Some(1);
        let present = answer.next().and_then(|text| read_owner(&text.as_str()?));
        if let Some(present) = &present {
            self.apply(shard, present);
        }
        if !is_won {
            return Ok(Claim::Lost(present));
        }
        self.tell(format!("own {} {}", shard.0, write_owner(new))).await;
        Ok(Claim::Won)
    }

    /// Whether the owner of a shard still holds its lease. That it has run out counts only after an unbroken contact;
    /// that it was ended counts at once.
    async fn lives(&self, owner: &ShardRecord, heir: &ShardRecord) -> Result<bool, Unavailable> {
        let lease: Option<String> =
            self.client.get(self.keys.node(&owner.node)).await.map_err(unavailable("lease"))?;
        if lease.as_deref().is_some_and(|lease| is_retired(lease, owner.incarnation)) {
            return Ok(false);
        }
        match lease.as_deref().and_then(read_lease) {
            Some(lease) if lease.incarnation == owner.incarnation => Ok(true),
            // A newer run of that node: the one that owned the shard has ended.
            Some(_) => Ok(false),
            None => {
                self.contact().check_inheritance(heir, Instant::now()).map_err(Unavailable)?;
                Ok(false)
            }
        }
    }

    // --- sessions

    pub(crate) fn add_session<'a>(
        &'a self,
        user: &'a UserId,
        session: SessionRecord,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<SessionRecord>, Unavailable>> {
        Box::pin(async move {
            let key = self.keys.user(user);
            let place = format!("{} {}", session.incarnation.0, session.node);
            let arguments = vec![session.session.as_str().into(), place.into(), SESSIONS_KEPT_MS.into()];
            let answer = ADD_SESSION
                .run(&self.client, vec![key.clone()], arguments)
                .await
                .map_err(unavailable("session"))?;
            let Some((now, mut known)) = read_sessions(answer) else {
                return Err(Unavailable("the directory"));
            };
            let view = self.view();
            let mut gone = Vec::new();
            known.retain(|(since, record)| {
                let lives =
                    view.nodes.get(&record.node).is_some_and(|node| node.incarnation == record.incarnation)
                        || record.session == session.session;
                if !lives && now.saturating_sub(*since) > UNKNOWN_KEPT_US {
                    gone.push(record.session.to_string());
                }
                lives
            });
            known.sort_by(|a, b| (a.0, a.1.session.as_str()).cmp(&(b.0, b.1.session.as_str())));
            let excess = if max == 0 { 0 } else { known.len().saturating_sub(max) };
            let excess: Vec<SessionRecord> = known.drain(..excess).map(|(_, record)| record).collect();
            gone.extend(excess.iter().map(|record| record.session.to_string()));
            if !gone.is_empty() {
                // What is not removed now is found again the next time.
                if let Err(error) = self.client.hdel::<i64, _, _>(key, gone).await {
                    tracing::debug!(%error, "sessions of a user could not be removed");
                }
            }
            Ok(excess)
        })
    }

    pub(crate) fn sessions<'a>(
        &'a self,
        user: &'a UserId,
    ) -> BoxFuture<'a, Result<Vec<SessionRecord>, Unavailable>> {
        Box::pin(async move {
            let known: HashMap<String, String> =
                self.client.hgetall(self.keys.user(user)).await.map_err(unavailable("sessions"))?;
            let view = self.view();
            let mut sessions: Vec<_> = known
                .iter()
                .filter_map(|(session, place)| read_session(session, place))
                .filter(|(_, record)| {
                    let node = view.nodes.get(&record.node);
                    node.is_some_and(|node| node.incarnation == record.incarnation)
                })
                .collect();
            sessions.sort_by(|a, b| (a.0, a.1.session.as_str()).cmp(&(b.0, b.1.session.as_str())));
            Ok(sessions.into_iter().map(|(_, record)| record).collect())
        })
    }

    pub(crate) fn remove_session<'a>(
        &'a self,
        user: &'a UserId,
        session: &'a SessionId,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        Box::pin(async move {
            let removed = self.client.hdel::<i64, _, _>(self.keys.user(user), session.as_str()).await;
            removed.map(drop).map_err(unavailable("session"))
        })
    }

    // --- lobbies

    pub(crate) fn publish_lobbies<'a>(
        &'a self,
        node: &'a NodeName,
        changed: Vec<LobbySummary>,
        removed: Vec<LobbyId>,
    ) -> BoxFuture<'a, Result<(), Unavailable>> {
        Box::pin(async move {
            let removed = removed.into_iter().map(|lobby| (lobby, String::new()));
            let changed = changed.into_iter().map(|summary| {
                let line = match summary.visibility {
                    Visibility::Public => {
                        serde_json::to_string(&summary).expect("a line of the list is plain text and numbers")
                    }
                    _ => String::new(),
                };
                (summary.lobby, line)
            });
            let lines: Vec<(LobbyId, String)> = removed.chain(changed).collect();
            for page in lines.chunks(LOBBIES_PAGE) {
                let mut arguments = vec![Value::from(LOBBIES_KEPT_MS)];
                for (lobby, line) in page {
                    arguments.extend([lobby.as_str().into(), line.as_str().into()]);
                }
                let keys = vec![self.keys.lobbies(node)];
                PUBLISH_LOBBIES.run(&self.client, keys, arguments).await.map_err(unavailable("lobbies"))?;
            }
            Ok(())
        })
    }

    pub(crate) fn lobbies<'a>(
        &'a self,
        after: Option<&'a LobbyId>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<LobbySummary>, Unavailable>> {
        Box::pin(async move {
            let view = self.view();
            let from = after.map_or_else(|| "-".to_owned(), |lobby| format!("[{lobby}\u{1}"));
            let page = i64::try_from(limit).unwrap_or(i64::MAX);
            let lists = view.nodes.keys().map(|node| {
                self.client.zrangebylex::<Vec<String>, _, _, _>(
                    self.keys.lobbies(node),
                    from.clone(),
                    "+",
                    Some((0, page)),
                )
            });
            let lists = futures_util::future::try_join_all(lists).await.map_err(unavailable("lobbies"))?;
            let mut merged: BTreeMap<LobbyId, (bool, LobbySummary)> = BTreeMap::new();
            for (node, lines) in view.nodes.keys().zip(lists) {
                for line in lines {
                    let json = line.split_once('\0').map_or("", |(_, json)| json);
                    let Ok(summary) = serde_json::from_str::<LobbySummary>(json) else {
                        tracing::debug!(%node, "a line of the list of lobbies cannot be read");
                        continue;
                    };
                    // A lobby that has just moved may stand in two lists.
                    let shard = mlms_protocol::placement::shard_of(&summary.lobby);
                    let is_owners = view.owner(shard).is_some_and(|owner| owner.name == *node);
                    let known = merged.get(&summary.lobby).is_some_and(|(is_owners, _)| *is_owners);
                    if !known {
                        merged.insert(summary.lobby.clone(), (is_owners, summary));
                    }
                }
            }
            Ok(merged.into_values().map(|(_, summary)| summary).take(limit).collect())
        })
    }
}

/// The script's time and the sessions with theirs.
fn read_sessions(answer: Value) -> Option<(u64, Vec<(u64, SessionRecord)>)> {
    let mut parts = answer.into_array().into_iter();
    let now = parts.next()?.as_u64()?;
    let fields = parts.next()?.into_array();
    let sessions =
        fields.chunks_exact(2).filter_map(|pair| read_session(&pair[0].as_str()?, &pair[1].as_str()?));
    Some((now, sessions.collect()))
}

/// A session with the time at which it came, in microseconds.
fn read_session(session: &str, place: &str) -> Option<(u64, SessionRecord)> {
    let session = SessionId::new(session).ok()?;
    let mut place = place.splitn(3, ' ');
    let since = place.next()?.parse().ok()?;
    let incarnation = Incarnation(place.next()?.parse().ok()?);
    Some((since, SessionRecord { session, node: NodeName::new(place.next()?).ok()?, incarnation }))
}
