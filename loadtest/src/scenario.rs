//! What a load test does: the schema of scenario files and their defaults. `scenario/reading.rs` reads them,
//! `scenario/check.rs` and `scenario/parts.rs` say what is wrong with one; the presets are such files too. `loadtest/README.md` is the reference.

mod check;
mod parts;
mod presets;
mod reading;
mod threshold;

use serde::{Deserialize, Serialize};

pub(crate) use self::presets::PRESETS;
pub(crate) use self::threshold::{Check, Latency, Threshold};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
    /// The same seed gives the same plan.
    #[serde(default = "one")]
    pub(crate) seed: u64,
    pub(crate) clients: Clients,
    pub(crate) lobbies: Lobbies,
    #[serde(default)]
    pub(crate) senders: Vec<Sender>,
    #[serde(default)]
    pub(crate) churn: Churn,
    #[serde(default)]
    pub(crate) slow_readers: SlowReaders,
    pub(crate) game: Option<Game>,
    pub(crate) phases: Vec<Phase>,
    #[serde(default)]
    pub(crate) thresholds: Vec<Threshold>,
    #[serde(default)]
    pub(crate) chaos: Vec<Chaos>,
    #[serde(default)]
    pub(crate) generator: Generator,
}

fn one() -> u64 {
    1
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clients {
    pub(crate) count: u32,
    /// How a client gets into its lobby.
    #[serde(default)]
    pub(crate) enter: Enter,
    /// Ask `POST /v1/connect` for a ticket first, and connect where it points.
    #[serde(default)]
    pub(crate) tickets: bool,
    /// The share of clients that speak `mlms.v1.msgpack`; the others speak `mlms.v1.json`.
    #[serde(default)]
    pub(crate) msgpack: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Enter {
    /// `?lobby=` at the connection, which is thereby routed to the lobby's owner.
    #[default]
    Lobby,
    /// Connected by the user's placement, then a `join`: many members sit on another node than the owner.
    User,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lobbies {
    /// Sizes are drawn from these until all clients have a lobby.
    pub(crate) sizes: Vec<Size>,
    /// Settings that lobbies are created with. Only with `enter = "user"`.
    #[serde(default)]
    pub(crate) settings: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Size {
    pub(crate) members: u32,
    /// The share of lobbies of this size, beside the others' weights.
    #[serde(default = "weight_one")]
    pub(crate) weight: f64,
}

fn weight_one() -> f64 {
    1.0
}

/// A stream of messages that some members send.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sender {
    /// How many members of each lobby send; not set: all.
    pub(crate) per_lobby: Option<u32>,
    /// Messages a second and sender.
    pub(crate) rate: f64,
    #[serde(default)]
    pub(crate) arrivals: Arrivals,
    #[serde(default = "chat")]
    pub(crate) kind: String,
    /// Not set: durable for chat, else ordered.
    pub(crate) class: Option<Class>,
    /// Latest-wins key of ephemeral messages.
    pub(crate) key: Option<String>,
    #[serde(default)]
    pub(crate) to: To,
    /// Bytes of the body: one number, or the least and the most.
    #[serde(default)]
    pub(crate) bytes: Bytes,
    /// Closed model, for benchmarks: this many messages of a sender are always under way, `rate` does not count.
    #[serde(default)]
    pub(crate) under_way: u32,
}

fn chat() -> String {
    "chat".to_owned()
}

impl Sender {
    pub(crate) fn class(&self) -> Class {
        self.class.unwrap_or(if self.kind == "chat" { Class::Durable } else { Class::Ordered })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrivals {
    /// Independent of each other, as people are.
    #[default]
    Poisson,
    /// As a game's clock gives them.
    Even,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    Durable,
    Ordered,
    Ephemeral,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::Durable => "durable",
            Class::Ordered => "ordered",
            Class::Ephemeral => "ephemeral",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum To {
    /// Every member, the sender too.
    #[default]
    All,
    Others,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Bytes {
    Fixed(u32),
    Between([u32; 2]),
}

impl Default for Bytes {
    fn default() -> Bytes {
        Bytes::Fixed(100)
    }
}

impl Bytes {
    pub(crate) fn range(self) -> (u32, u32) {
        match self {
            Bytes::Fixed(bytes) => (bytes, bytes),
            Bytes::Between([least, most]) => (least, most),
        }
    }
}

/// Clients that come and go, each at times of its own; rates count a client and minute.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Churn {
    /// Leaves its lobby, and joins it again.
    pub(crate) leave_per_minute: f64,
    /// Loses its connection without a word, and resumes.
    pub(crate) disconnect_per_minute: f64,
    /// How long it stays away: the least and the most.
    pub(crate) away_ms: [u64; 2],
}

impl Default for Churn {
    fn default() -> Churn {
        Churn { leave_per_minute: 0.0, disconnect_per_minute: 0.0, away_ms: [200, 2_000] }
    }
}

/// Clients that read too slowly. What they get is checked; its latency does not count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SlowReaders {
    /// Of all clients.
    pub(crate) share: f64,
    pub(crate) bytes_per_s: u32,
}

impl Default for SlowReaders {
    fn default() -> SlowReaders {
        SlowReaders { share: 0.0, bytes_per_s: 2_000 }
    }
}

/// Games that play themselves: everyone ready, start, actions, reports, finish, and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Game {
    pub(crate) rounds: u32,
    /// How long a round is played.
    pub(crate) seconds: f64,
    /// Actions a second and player, kind `game`.
    #[serde(default = "twenty")]
    pub(crate) actions_per_s: f64,
    #[serde(default)]
    pub(crate) bytes: Bytes,
    /// Reports of damage a round and player.
    #[serde(default = "three")]
    pub(crate) reports: u32,
    /// Damage that the first player of each lobby does in its first round; the others stay at 100.
    #[serde(default = "damage")]
    pub(crate) damage: u32,
    /// The achievement that must come for `damage`; empty: none is waited for.
    #[serde(default)]
    pub(crate) achievement: String,
}

fn twenty() -> f64 {
    20.0
}

fn three() -> u32 {
    3
}

fn damage() -> u32 {
    600
}

/// A stretch of time. Numbers are measured for each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Phase {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) kind: PhaseKind,
    pub(crate) seconds: f64,
    /// The share of all clients that are connected at its end; not set: as before, and all in the first phase.
    pub(crate) clients: Option<f64>,
    /// Multiplies all rates of senders.
    #[serde(default = "weight_one")]
    pub(crate) load: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PhaseKind {
    /// Clients come (or go) evenly over the phase.
    Ramp,
    /// Clients come (or go) at its start, as fast as they can.
    #[default]
    Hold,
    /// As hold: for a burst of load.
    Spike,
    /// As hold: for hours.
    Soak,
    /// All clients lose their connection at its start and come back at once.
    Storm,
}

/// A fault that is injected at a time of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chaos {
    /// Seconds from the start.
    pub(crate) at: f64,
    pub(crate) action: Action,
    pub(crate) pid: Option<i32>,
    pub(crate) pid_file: Option<String>,
    /// Run with `sh -c`; its exit status must be 0.
    pub(crate) command: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
    /// SIGTERM.
    Drain,
    Command,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Kill => "kill",
            Action::Stop => "stop",
            Action::Cont => "cont",
            Action::Drain => "drain",
            Action::Command => "command",
        }
    }
}

/// The generator's own settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Generator {
    /// The run is void when the 99th percentile of the generator's own lag in a phase is above this, or its lag at the
    /// percentile of a time that missed its threshold for that.
    pub(crate) lag_p99_ms: f64,
    /// Connections that may be under way at once.
    pub(crate) connects_in_flight: u32,
    /// Longest wait at the end for what is under way.
    pub(crate) settle_seconds: f64,
    /// Seqs and sends of a lobby that the checks remember.
    pub(crate) window: usize,
}

impl Default for Generator {
    fn default() -> Generator {
        Generator { lag_p99_ms: 50.0, connects_in_flight: 1_000, settle_seconds: 15.0, window: 4_096 }
    }
}

impl Scenario {
    /// Seconds of all phases.
    pub(crate) fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }
}
