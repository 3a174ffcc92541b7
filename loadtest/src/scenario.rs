//! What a load test does: the schema of scenario files, their defaults, and what is wrong with one. The presets are
//! such files too. `loadtest/README.md` is the reference for whoever writes one.

mod presets;
mod threshold;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use self::presets::PRESETS;
pub(crate) use self::threshold::{Check, Latency, Threshold};

/// Most clients of one scenario.
const CLIENTS_MAX: u32 = 1_000_000;

/// Most streams of messages of one scenario.
const SENDERS_MAX: usize = 16;

/// Longest body, in bytes.
const BYTES_MAX: u32 = 60_000;

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
    /// The run is void when the 99th percentile of the generator's own lag in a phase is above this.
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
    /// Reads a preset by name, or a file, with `KEY=VALUE` overrides on top; `KEY` is a path like `phases.1.seconds`.
    pub(crate) fn load(name: &str, overrides: &[String]) -> anyhow::Result<Scenario> {
        let text = match PRESETS.iter().find(|preset| preset.name == name) {
            Some(preset) => preset.text.to_owned(),
            None => std::fs::read_to_string(name).with_context(|| {
                let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                format!("{name} is neither a preset ({}) nor a file that can be read", names.join(", "))
            })?,
        };
        Scenario::parse(&text, overrides).with_context(|| format!("scenario {name}"))
    }

    pub(crate) fn parse(text: &str, overrides: &[String]) -> anyhow::Result<Scenario> {
        let mut table: toml::Value = toml::from_str::<toml::Table>(text).map(toml::Value::Table)?;
        for given in overrides {
            let (path, value) = given.split_once('=').with_context(|| format!("{given}: write KEY=VALUE"))?;
            set(&mut table, path, value).with_context(|| given.clone())?;
        }
        let scenario: Scenario = table.try_into()?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Seconds of all phases.
    pub(crate) fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=CLIENTS_MAX).contains(&self.clients.count), "clients.count is 1 to {CLIENTS_MAX}");
        ensure!(!self.lobbies.sizes.is_empty(), "lobbies.sizes names no size");
        for size in &self.lobbies.sizes {
            ensure!(size.members > 0, "a lobby has at least one member");
            ensure!(size.weight > 0.0 && size.weight.is_finite(), "a weight is above 0");
        }
        ensure!(
            self.lobbies.settings.is_none() || self.clients.enter == Enter::User,
            "lobbies.settings needs clients.enter = \"user\": the other way creates lobbies without settings"
        );
        ensure!(self.senders.len() < SENDERS_MAX, "there are less than {SENDERS_MAX} senders");
        for sender in &self.senders {
            let (least, most) = sender.bytes.range();
            ensure!(most <= BYTES_MAX && least <= most, "bytes are at most {BYTES_MAX}, the least first");
            ensure!(sender.under_way > 0 || rate(sender.rate), "a sender's rate is 0 to 100000");
            ensure!(sender.under_way <= 1_000, "under_way is at most 1000");
            ensure!(
                sender.key.is_none() || sender.class() == Class::Ephemeral,
                "a key goes with the class ephemeral only"
            );
            if sender.to != To::All {
                ensure!(
                    sender.class() != Class::Durable,
                    "a message to others is not durable: name its class"
                );
            }
        }
        if let Some(game) = &self.game {
            ensure!(rate(game.actions_per_s), "game.actions_per_s is 0 to 100000");
            ensure!(seconds(game.seconds), "game.seconds is above 0");
        }
        ensure!(rate(self.churn.leave_per_minute), "churn.leave_per_minute is 0 to 100000");
        ensure!(rate(self.churn.disconnect_per_minute), "churn.disconnect_per_minute is 0 to 100000");
        ensure!(self.churn.away_ms[0] <= self.churn.away_ms[1], "churn.away_ms: the least first");
        ensure!((0.0..=1.0).contains(&self.slow_readers.share), "slow_readers.share is 0 to 1");
        ensure!(!self.phases.is_empty(), "there is no phase");
        for phase in &self.phases {
            ensure!(seconds(phase.seconds), "phase {}: seconds are above 0", phase.name);
            ensure!(rate(phase.load), "phase {}: load is 0 to 100000", phase.name);
            let share = phase.clients.unwrap_or(1.0);
            ensure!((0.0..=1.0).contains(&share), "phase {}: clients are a share, 0 to 1", phase.name);
        }
        let names: std::collections::BTreeSet<&str> = self.phases.iter().map(|phase| &*phase.name).collect();
        ensure!(names.len() == self.phases.len(), "two phases have the same name");
        for threshold in &self.thresholds {
            let Some(phase) = &threshold.phase else { continue };
            ensure!(names.contains(&**phase), "the threshold {threshold} names a phase that there is not");
        }
        for chaos in &self.chaos {
            ensure!(
                chaos.at >= 0.0 && chaos.at < self.seconds(),
                "chaos at {}: not within the run",
                chaos.at
            );
            let given = [chaos.pid.is_some(), chaos.pid_file.is_some(), chaos.command.is_some()];
            ensure!(
                given.iter().filter(|given| **given).count() == 1,
                "chaos: one of pid, pid_file, command"
            );
            ensure!(
                (chaos.action == Action::Command) == chaos.command.is_some(),
                "chaos: the action is another"
            );
        }
        ensure!(self.generator.window >= 16, "generator.window is at least 16");
        ensure!(self.generator.connects_in_flight > 0, "generator.connects_in_flight is at least 1");
        ensure!(
            (0.0..=3_600.0).contains(&self.generator.settle_seconds),
            "generator.settle_seconds is 0 to 3600"
        );
        Ok(())
    }
}

fn rate(value: f64) -> bool {
    (0.0..=100_000.0).contains(&value)
}

fn seconds(value: f64) -> bool {
    value > 0.0 && value <= 10_000_000.0
}

/// Puts a value at a dotted path; the value is TOML, or else a string.
fn set(table: &mut toml::Value, path: &str, value: &str) -> anyhow::Result<()> {
    let parsed =
        toml::from_str::<toml::Table>(&format!("value = {value}")).ok().and_then(|mut it| it.remove("value"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut place = table;
    for key in path.split('.') {
        place = match place {
            toml::Value::Table(table) => {
                table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()))
            }
            toml::Value::Array(items) => {
                let index: usize = key.parse().with_context(|| format!("{key} is no number of an entry"))?;
                let count = items.len();
                items.get_mut(index).with_context(|| format!("entry {index} of {count}"))?
            }
            _ => bail!("{key} has nothing inside"),
        };
    }
    *place = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = 'x'\nclients.count = 4\nlobbies.sizes = [{ members = 2 }]\n[[phases]]\nname = 'hold'\nseconds = 1\n";

    #[test]
    fn every_preset_is_sound() {
        for preset in PRESETS {
            let scenario = Scenario::load(preset.name, &[]).unwrap();
            assert_eq!(scenario.name, preset.name);
            assert!(!scenario.description.is_empty() && !scenario.thresholds.is_empty(), "{}", preset.name);
        }
    }

    #[test]
    fn overrides_reach_any_place() {
        let overrides =
            ["clients.count=9", "phases.0.seconds=2.5", "thresholds=['errors <= 0']", "name=other"];
        let scenario = Scenario::parse(LEAST, &overrides.map(str::to_owned)).unwrap();
        assert_eq!((scenario.clients.count, scenario.phases[0].seconds), (9, 2.5));
        assert_eq!((&*scenario.name, scenario.thresholds.len()), ("other", 1));
    }

    #[test]
    fn mistakes_are_told() {
        for (given, told) in [
            ("clients.count=0", "clients.count"),
            ("clients.cuont=1", "cuont"),
            ("phases.0.seconds=0", "seconds"),
            ("phases.7.seconds=1", "entry 7"),
            ("thresholds=['delivery.p99_ms < x']", "delivery.p99_ms < x"),
            ("thresholds=['storm: errors <= 0']", "names a phase"),
            ("chaos=[{ at = 5, action = 'kill', pid = 1 }]", "not within the run"),
            ("senders=[{ rate = 1, to = 'others' }]", "durable"),
            ("lobbies.settings.capacity=3", "enter"),
            ("nonsense", "KEY=VALUE"),
        ] {
            let error = format!("{:#}", Scenario::parse(LEAST, &[given.to_owned()]).unwrap_err());
            assert!(error.contains(told), "{given}: {error}");
        }
    }
}
