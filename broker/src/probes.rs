//! What the broker finds out about the services around it, for `/health`: each node with its latency and its own worst
//! service, Redis, the database, and through the nodes RabbitMQ and achievements. It looks at a steady pace, and sooner
//! when somebody asks; every question has a bound in time, and no session waits for any of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::StatusCode;
use mlms_cluster::View;
use mlms_cluster::view::{NodeRecord, NodeState};
use mlms_process::health::{Component, Health, State};
use mlms_protocol::NodeName;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

use crate::edge::Edge;
use crate::node::{self, Purpose};

/// Pause between rounds that nobody asked for.
const PAUSE: Duration = Duration::from_secs(5);
/// What was found out in this time is good enough for whoever asks: many who ask cost no more than one.
const FRESH: Duration = Duration::from_secs(1);
/// How long a service may take to say how it is.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long who asks waits for a round.
const WAIT: Duration = Duration::from_secs(3);
/// A node that vanished without a farewell is told of for so long.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Nodes that vanished and are told of.
const REMEMBERED_MAX: usize = 64;
/// Bytes of a node's answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// When the last round ended, and how to ask for the next.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    wanted: Notify,
    ended: watch::Sender<Option<Instant>>,
}

impl Probes {
    /// Returns when what is known is fresh, or it takes too long to find out.
    pub(crate) async fn fresh(&self) {
        let is_fresh = |ended: &Option<Instant>| ended.is_some_and(|at| at.elapsed() < FRESH);
        let mut ended = self.ended.subscribe();
        if !is_fresh(&ended.borrow()) {
            self.wanted.notify_one();
            // What is known then is what there is to tell.
            let _ = tokio::time::timeout(WAIT, ended.wait_for(is_fresh)).await;
        }
    }
}

/// The name of a node's entry.
pub(crate) fn entry(node: &NodeName) -> String {
    format!("node {node}")
}

/// How a node says it is.
#[derive(Deserialize)]
struct Report {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    state: State,
    cause: Option<String>,
}

/// Goes round for ever.
pub(crate) async fn run(edge: &Arc<Edge>) {
    let seen = Mutex::default();
    tokio::join!(follow(edge, &seen), go_round(edge, &seen));
}

/// Nodes as they were when they were last there.
type Seen = Mutex<BTreeMap<NodeName, (NodeState, Instant)>>;

fn note(seen: &Seen, view: &View) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    for node in view.nodes.values() {
        seen.insert(node.name.clone(), (node.state, Instant::now()));
    }
}

/// A node may say farewell and be gone while another is asked.
async fn follow(edge: &Edge, seen: &Seen) {
    let mut views = edge.directory.watch();
    loop {
        note(seen, &views.borrow_and_update());
        if views.changed().await.is_err() {
            // The directory's task is gone: nothing changes any more.
            return std::future::pending().await;
        }
    }
}

async fn go_round(edge: &Edge, seen: &Seen) {
    let mut round = Round { health: &edge.health, seen, ours: BTreeSet::new() };
    loop {
        round.go(edge).await;
        edge.probes.ended.send_replace(Some(Instant::now()));
        // Either way it is time for the next.
        let _ = tokio::time::timeout(PAUSE, edge.probes.wanted.notified()).await;
    }
}

struct Round<'a> {
    health: &'a Health,
    seen: &'a Seen,
    /// Entries that a part of this process does not tell of by itself.
    ours: BTreeSet<&'static str>,
}

impl Round<'_> {
    async fn go(&mut self, edge: &Edge) {
        let view = edge.directory.view();
        let asking = join_all(view.nodes.values().map(|node| ask(edge, node)));
        let (reports, (), ()) = tokio::join!(asking, tell_redis(edge), tell_database(edge));
        note(self.seen, &view);
        self.miss(&edge.directory.view());
        let reports: Vec<Report> = reports.into_iter().flatten().collect();
        if edge.players.is_none() {
            self.pass_on(&reports, "store", "database");
        }
        self.pass_on(&reports, "amqp", "rabbitmq");
        self.pass_on(&reports, "achievements", "achievements");
        let counts_here = self.health.knows("achievements") && !self.ours.contains("achievements");
        if counts_here && !self.health.knows("rabbitmq") {
            // Events go to the service of this process.
            self.health.component("rabbitmq").embedded().ok();
        }
    }

    /// Who said farewell is forgotten, who vanished is missed for a while.
    fn miss(&self, view: &View) {
        let mut missed = 0;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|name, (state, at)| {
            if view.nodes.contains_key(name) {
                return true;
            }
            let is_missed =
                *state == NodeState::Ready && at.elapsed() < REMEMBERED && missed < REMEMBERED_MAX;
            missed += usize::from(is_missed);
            if is_missed {
                self.health.component(&entry(name)).spare().down("vanished: it does not renew its lease");
            } else {
                self.health.forget(&entry(name));
            }
            is_missed
        });
    }

    /// A broker does not talk to every service; its nodes do. What a part of this process tells of itself stays.
    fn pass_on(&mut self, reports: &[Report], theirs: &str, name: &'static str) {
        let told: Vec<&Service> = reports.iter().filter_map(|report| report.services.get(theirs)).collect();
        let is_local = self.health.knows(name) && !self.ours.contains(name);
        if told.is_empty() || is_local {
            return;
        }
        self.ours.insert(name);
        let component = self.health.component(name).spare();
        match told.iter().find(|service| is_bad(service.state)) {
            Some(bad) if bad.state == State::Down => component.down(bad.cause.clone().unwrap_or_default()),
            Some(bad) => component.degraded(bad.cause.clone().unwrap_or_default()),
            None => component.ok(),
        }
    }
}

async fn ask(edge: &Edge, node: &NodeRecord) -> Option<Report> {
    let component = edge.health.component(&entry(&node.name)).spare();
    let began = Instant::now();
    let asked =
        node::post(&node.address, &edge.keys, Purpose::Health, Bytes::new(), PATIENCE, ANSWER_BYTES_MAX);
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    component.took(began.elapsed());
    let report = match answer {
        Ok(Ok((StatusCode::OK, body))) => serde_json::from_slice::<Report>(&body).ok(),
        // A release that does not tell: it answers, and that is all that is known.
        Ok(Ok((StatusCode::NOT_FOUND, _))) => None,
        Ok(Ok((status, _))) => {
            component.degraded(format!("answers {status}"));
            return None;
        }
        Ok(Err(refusal)) => {
            component.down(refusal.to_string());
            return None;
        }
        Err(_) => {
            component.down("does not answer in time");
            return None;
        }
    };
    let services = report.iter().flat_map(|report| &report.services);
    let worst = services.filter(|(name, _)| !is_behind(name)).find(|(_, one)| is_bad(one.state));
    match worst {
        _ if node.state == NodeState::Draining => component.degraded("is leaving"),
        Some((name, service)) => {
            component.degraded(format!("{name}: {}", service.cause.as_deref().unwrap_or("is not well")));
        }
        None => component.ok(),
    }
    report
}

/// Services that have entries of their own: a node is not worse for them.
fn is_behind(service: &str) -> bool {
    matches!(service, "amqp" | "achievements")
}

fn is_bad(state: State) -> bool {
    matches!(state, State::Degraded | State::Down)
}

async fn tell_redis(edge: &Edge) {
    let component = edge.health.component("redis");
    if edge.directory.is_embedded() {
        return component.embedded().ok();
    }
    tell(&component, async { edge.directory.refresh().await.map(drop) }).await;
}

async fn tell_database(edge: &Edge) {
    // Whoever opens it tells of it until it is open.
    let Some(store) = edge.players.as_ref().and_then(|slot| slot.get()) else { return };
    let component = edge.health.component("database").spare();
    let component = if store.is_embedded() { component.embedded() } else { component };
    tell(&component, store.ping()).await;
}

async fn tell<E: ToString>(component: &Component, asked: impl Future<Output = Result<(), E>>) {
    let began = Instant::now();
    let outcome = tokio::time::timeout(PATIENCE, asked).await;
    component.took(began.elapsed());
    match outcome {
        Ok(Ok(())) => component.ok(),
        Ok(Err(error)) => component.down(error.to_string()),
        Err(_) => component.down("does not answer in time"),
    }
}
