//! What a process says about itself: the state of every service it uses, and whether it takes new sessions.
//! Handles are cheap to clone; whoever notices a change reports it, the admin listener shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::watch;

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Registered, and nothing is known yet.
    Unknown,
    Ok,
    Degraded,
    Down,
}

/// A service as `/health` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    pub state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Unix milliseconds of the last change of state.
    pub since: u64,
    /// How long it took to answer when it was last asked.
    #[serde(rename = "latency_ms", serialize_with = "millis", skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
    /// A part of this process does its work; there is no server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embedded: bool,
    /// The process serves without it: its end makes the whole no worse than degraded.
    #[serde(skip)]
    pub spare: bool,
}

#[expect(clippy::ref_option, reason = "what serde hands over")]
fn millis<S: Serializer>(latency: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let hundredths = latency.unwrap_or_default().as_micros() / 10;
    // Two digits are more than a network keeps.
    serializer.serialize_f64(f64::from(u32::try_from(hundredths).unwrap_or(u32::MAX)) / 100.0)
}

/// The registry of services.
#[derive(Debug, Clone, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<String, Condition>>>,
}

/// One service's entry; reports replace each other.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    name: Arc<str>,
}

impl Health {
    pub fn new() -> Health {
        Health::default()
    }

    /// The entry of this name, made if it is new.
    pub fn component(&self, name: &str) -> Component {
        let unknown = || Condition {
            state: State::Unknown,
            cause: None,
            since: now_ms(),
            latency: None,
            embedded: false,
            spare: false,
        };
        self.lock().entry(name.to_owned()).or_insert_with(unknown);
        Component { health: self.clone(), name: Arc::from(name) }
    }

    /// All services by name.
    pub fn report(&self) -> BTreeMap<String, Condition> {
        self.lock().clone()
    }

    /// Names of the services that are degraded or down.
    pub fn impaired(&self) -> Vec<String> {
        let conditions = self.lock();
        let impaired =
            conditions.iter().filter(|(_, one)| matches!(one.state, State::Degraded | State::Down));
        impaired.map(|(name, _)| name.clone()).collect()
    }

    /// Drops an entry: there is no such service any more.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Whether there is an entry of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.lock().contains_key(name)
    }

    /// The worst state of all; `Ok` when nothing is registered.
    pub fn overall(&self) -> State {
        let conditions = self.lock();
        let weighed = |condition: &Condition| match condition.state {
            State::Down if condition.spare => State::Degraded,
            state => state,
        };
        let has = |state| conditions.values().any(|condition| weighed(condition) == state);
        [State::Down, State::Degraded, State::Unknown]
            .into_iter()
            .find(|state| has(*state))
            .unwrap_or(State::Ok)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Condition>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Component {
    pub fn ok(&self) {
        self.set(State::Ok, None);
    }

    /// It works, but not as it should.
    pub fn degraded(&self, cause: impl Into<String>) {
        self.set(State::Degraded, Some(cause.into()));
    }

    /// It does not work.
    pub fn down(&self, cause: impl Into<String>) {
        self.set(State::Down, Some(cause.into()));
    }

    /// How long it took to answer just now.
    pub fn took(&self, latency: Duration) {
        self.change(|condition| condition.latency = Some(latency));
    }

    /// It is a part of this process.
    #[must_use]
    pub fn embedded(self) -> Component {
        self.change(|condition| condition.embedded = true);
        self
    }

    /// The process serves without it.
    #[must_use]
    pub fn spare(self) -> Component {
        self.change(|condition| condition.spare = true);
        self
    }

    pub fn state(&self) -> State {
        self.health.lock().get(&*self.name).map_or(State::Unknown, |condition| condition.state)
    }

    fn set(&self, state: State, cause: Option<String>) {
        self.change(|condition| {
            if condition.state != state {
                condition.since = now_ms();
            }
            condition.state = state;
            condition.cause.clone_from(&cause);
        });
    }

    fn change(&self, change: impl FnMut(&mut Condition)) {
        self.health.lock().get_mut(&*self.name).into_iter().for_each(change);
    }
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Whether the process takes new sessions: when every named dependency's gate is open and no drain has begun.
/// A drain is never taken back.
#[derive(Debug, Clone)]
pub struct Readiness {
    gates: Arc<watch::Sender<Gates>>,
}

#[derive(Debug, Clone, Default)]
struct Gates {
    /// Why a gate is closed; None: open.
    closed_because: BTreeMap<String, Option<String>>,
    draining: bool,
}

/// The gate of one dependency.
#[derive(Debug, Clone)]
pub struct Gate {
    readiness: Readiness,
    name: Arc<str>,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness { gates: Arc::new(watch::Sender::new(Gates::default())) }
    }
}

impl Readiness {
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// Adds a dependency, its gate closed until it is opened.
    pub fn dependency(&self, name: &str) -> Gate {
        let gate = Gate { readiness: self.clone(), name: Arc::from(name) };
        gate.close("not yet there");
        gate
    }

    /// Takes readiness back for good.
    pub fn drain(&self) {
        self.gates.send_modify(|gates| gates.draining = true);
    }

    pub fn is_ready(&self) -> bool {
        self.gates.borrow().is_open()
    }

    pub fn is_draining(&self) -> bool {
        self.gates.borrow().draining
    }

    /// What is missing, by dependency, with the reason.
    pub fn missing(&self) -> BTreeMap<String, String> {
        let gates = self.gates.borrow();
        let closed = gates.closed_because.iter();
        let mut missing: BTreeMap<String, String> =
            closed.filter_map(|(name, why)| Some((name.clone(), why.clone()?))).collect();
        if gates.draining {
            missing.insert("drain".to_owned(), "the process is stopping".to_owned());
        }
        missing
    }

    /// Returns once the process is ready. Cancel safe.
    pub async fn wait_ready(&self) {
        let mut gates = self.gates.subscribe();
        // The sender lives in self, so the wait cannot fail.
        let _ = gates.wait_for(Gates::is_open).await;
    }
}

impl Gates {
    fn is_open(&self) -> bool {
        !self.draining && self.closed_because.values().all(Option::is_none)
    }
}

impl Gate {
    pub fn open(&self) {
        self.set(None);
    }

    /// Closes the gate again, for as long as the dependency is away.
    pub fn close(&self, cause: impl Into<String>) {
        self.set(Some(cause.into()));
    }

    fn set(&self, cause: Option<String>) {
        self.readiness.gates.send_modify(|gates| {
            gates.closed_because.insert(self.name.to_string(), cause);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_gate_opens_and_the_drain_takes_back_for_good() {
        let readiness = Readiness::new();
        let (redis, store) = (readiness.dependency("redis"), readiness.dependency("store"));
        assert!(!readiness.is_ready());
        redis.open();
        assert_eq!(readiness.missing().into_keys().collect::<Vec<_>>(), ["store"]);
        store.open();
        assert!(readiness.is_ready());
        redis.close("connection lost");
        assert_eq!(readiness.missing()["redis"], "connection lost");
        redis.open();
        readiness.drain();
        store.open();
        assert!(!readiness.is_ready());
        assert!(readiness.missing().contains_key("drain"));
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_gate_opens() {
        let readiness = Readiness::new();
        let gate = readiness.dependency("redis");
        let opener = tokio::spawn(async move { gate.open() });
        readiness.wait_ready().await;
        opener.await.unwrap();
    }

    #[test]
    fn the_worst_service_counts() {
        let health = Health::new();
        assert_eq!(health.overall(), State::Ok);
        let (journal, relay) = (health.component("journal"), health.component("relay"));
        assert_eq!(health.overall(), State::Unknown);
        journal.ok();
        relay.degraded("slow");
        assert_eq!(health.overall(), State::Degraded);
        journal.down("gone");
        assert_eq!(health.overall(), State::Down);
        assert_eq!(health.report()["relay"].cause.as_deref(), Some("slow"));
        relay.ok();
        assert_eq!(health.report()["relay"].cause, None);
        assert_eq!(health.component("journal").state(), State::Down, "an entry of the same name is the same");
        journal.ok();
        let node = health.component("node n1").spare();
        node.down("gone");
        assert_eq!(health.overall(), State::Degraded, "one of many");
        health.forget("node n1");
        node.down("an entry that is forgotten stays so");
        assert_eq!((health.overall(), health.knows("node n1")), (State::Ok, false));
    }

    #[test]
    fn an_entry_says_no_more_than_is_known() {
        let health = Health::new();
        let redis = health.component("redis");
        redis.ok();
        let told = || serde_json::to_value(&health.report()["redis"]).expect("plain fields");
        assert_eq!(told().as_object().expect("an object").len(), 2, "{}", told());
        redis.embedded().took(Duration::from_micros(1_234));
        let told = told();
        assert_eq!((&told["latency_ms"], &told["embedded"]), (&1.23.into(), &true.into()), "{told}");
    }
}
