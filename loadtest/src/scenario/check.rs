//! What is wrong with a scenario that can be read: values out of their range, and parts that do not fit each other.
//! Everything is told at once, each mistake with its place.

use std::collections::BTreeSet;

use super::{
    Action, Chaos, Churn, Class, Clients, Enter, Game, Generator, Lobbies, Phase, Scenario, Sender, Size,
    SlowReaders, To, threshold,
};

/// Most clients of one scenario.
const CLIENTS_MAX: u32 = 1_000_000;

/// Most streams of messages of one scenario.
const SENDERS_MAX: usize = 16;

/// Longest body, in bytes.
const BYTES_MAX: u32 = 60_000;

/// Mistakes, in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Mistakes(Vec<String>);

impl Mistakes {
    pub(super) fn add(&mut self, mistake: String) {
        self.0.push(mistake);
    }

    fn unless(&mut self, holds: bool, mistake: impl FnOnce() -> String) {
        if !holds {
            self.add(mistake());
        }
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = String> {
        self.0.into_iter()
    }

    /// # Errors
    /// There are mistakes: all of them.
    pub(crate) fn told(self) -> anyhow::Result<()> {
        match &self.0[..] {
            [] => Ok(()),
            [only] => Err(anyhow::anyhow!("{only}")),
            all => Err(anyhow::anyhow!("{} mistakes\n  {}", all.len(), all.join("\n  "))),
        }
    }
}

/// What a part of a scenario can say about its own values; `at` is its place.
pub(super) trait Check {
    fn check(&self, at: &str, mistakes: &mut Mistakes);
}

impl Check for Scenario {
    fn check(&self, _: &str, mistakes: &mut Mistakes) {
        self.clients.check("clients", mistakes);
        self.lobbies.check("lobbies", mistakes);
        self.churn.check("churn", mistakes);
        self.slow_readers.check("slow_readers", mistakes);
        self.game.iter().for_each(|game| game.check("game", mistakes));
        self.generator.check("generator", mistakes);
        check_each("senders", &self.senders, mistakes);
        check_each("phases", &self.phases, mistakes);
        check_each("chaos", &self.chaos, mistakes);
        self.check_together(mistakes);
    }
}

fn check_each<T: Check>(name: &str, parts: &[T], mistakes: &mut Mistakes) {
    parts.iter().enumerate().for_each(|(index, part)| part.check(&format!("{name}.{index}"), mistakes));
}

impl Scenario {
    /// Looks at all of it again, for what came from elsewhere than a file.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn check_all(&self) -> anyhow::Result<()> {
        let mut mistakes = Mistakes::default();
        self.check("", &mut mistakes);
        mistakes.told()
    }

    pub(super) fn check_together(&self, mistakes: &mut Mistakes) {
        mistakes.unless(self.lobbies.settings.is_none() || self.clients.enter == Enter::User, || {
            "lobbies.settings needs clients.enter = \"user\": the other way creates lobbies without settings".into()
        });
        // Each player reports, once a round at least. Other values are for tokens that may report about everybody.
        let reports = self.lobbies.settings.as_ref().and_then(|settings| settings.get("reports"));
        mistakes.unless(self.game.is_none() || reports.is_some(), || {
            "game: its players report damage, which needs lobbies.settings.reports = \"members\" (and with it clients.enter = \"user\")".into()
        });
        mistakes.unless(self.senders.len() < SENDERS_MAX, || {
            format!("senders: there are less than {SENDERS_MAX}")
        });
        mistakes.unless(!self.phases.is_empty(), || "phases: there is none".to_owned());
        let names: BTreeSet<&str> = self.phases.iter().map(|phase| &*phase.name).collect();
        mistakes.unless(names.len() == self.phases.len(), || "phases: two have the same name".to_owned());
        for threshold in &self.thresholds {
            let is_known = threshold.phase.as_ref().is_none_or(|phase| names.contains(&**phase));
            mistakes
                .unless(is_known, || format!("the threshold {threshold} names a phase that there is not"));
            let is_of_game =
                matches!(threshold.check, threshold::Check::Count("games_finished" | "games_missing"));
            mistakes.unless(!is_of_game || self.game.is_some(), || {
                format!("the threshold {threshold} needs a [game]")
            });
        }
        for chaos in self.chaos.iter().filter(|chaos| chaos.at >= self.seconds()) {
            mistakes.add(format!("chaos at {}: not within the run's {} s", chaos.at, self.seconds()));
        }
    }
}

impl Check for Clients {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes
            .unless((1..=CLIENTS_MAX).contains(&self.count), || format!("{at}.count is 1 to {CLIENTS_MAX}"));
        mistakes.unless(share(self.msgpack), || format!("{at}.msgpack is a share, 0 to 1"));
    }
}

impl Check for Lobbies {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(!self.sizes.is_empty(), || format!("{at}.sizes names no size"));
        check_each(&format!("{at}.sizes"), &self.sizes, mistakes);
    }
}

impl Check for Size {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(self.members > 0, || format!("{at}.members is at least 1"));
        mistakes.unless(self.weight > 0.0 && self.weight.is_finite(), || format!("{at}.weight is above 0"));
    }
}

impl Check for Sender {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        let (least, most) = self.bytes.range();
        mistakes.unless(least <= most, || format!("{at}.bytes: the least first"));
        mistakes.unless(most <= BYTES_MAX, || format!("{at}.bytes are at most {BYTES_MAX}"));
        mistakes.unless(self.under_way > 0 || rate(self.rate), || format!("{at}.rate is 0 to 100000"));
        mistakes.unless(self.under_way <= 1_000, || format!("{at}.under_way is at most 1000"));
        mistakes.unless(self.per_lobby != Some(0), || format!("{at}.per_lobby is at least 1"));
        mistakes.unless(is_kind(&self.kind), || {
            format!("{at}.kind is 1 to 32 of a-z, 0-9, _ . -, not {:?}", self.kind)
        });
        mistakes.unless(self.key.is_none() || self.class() == Class::Ephemeral, || {
            format!("{at}: a key goes with the class ephemeral only")
        });
        mistakes.unless(self.to == To::All || self.class() != Class::Durable, || {
            format!("{at}: a message to others is not durable: name its class")
        });
    }
}

impl Check for Game {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(rate(self.actions_per_s), || format!("{at}.actions_per_s is 0 to 100000"));
        mistakes.unless(seconds(self.seconds), || format!("{at}.seconds are above 0"));
        mistakes.unless(self.rounds > 0, || format!("{at}.rounds is at least 1"));
        let (least, most) = self.bytes.range();
        mistakes.unless(least <= most && most <= BYTES_MAX, || {
            format!("{at}.bytes are at most {BYTES_MAX}, the least first")
        });
    }
}

impl Check for Churn {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(rate(self.leave_per_minute), || format!("{at}.leave_per_minute is 0 to 100000"));
        mistakes.unless(rate(self.disconnect_per_minute), || {
            format!("{at}.disconnect_per_minute is 0 to 100000")
        });
        let [least, most] = self.away_ms;
        mistakes.unless(least <= most, || format!("{at}.away_ms: the least first"));
        mistakes.unless(most <= 86_400_000, || format!("{at}.away_ms is at most a day"));
    }
}

impl Check for SlowReaders {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(share(self.share), || format!("{at}.share is 0 to 1"));
    }
}

impl Check for Phase {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        let name = &self.name;
        mistakes.unless(seconds(self.seconds), || format!("{at}.seconds ({name}) are above 0"));
        mistakes.unless(rate(self.load), || format!("{at}.load ({name}) is 0 to 100000"));
        mistakes
            .unless(self.clients.is_none_or(share), || format!("{at}.clients ({name}) are a share, 0 to 1"));
    }
}

impl Check for Chaos {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(self.at >= 0.0, || format!("{at}.at is a time within the run"));
        let given = [self.pid.is_some(), self.pid_file.is_some(), self.command.is_some()];
        let given = given.iter().filter(|given| **given).count();
        mistakes.unless(given == 1, || format!("{at}: one of pid, pid_file, command"));
        let fits = (self.action == Action::Command) == self.command.is_some();
        mistakes.unless(given != 1 || fits, || {
            format!("{at}: a command goes with the action \"command\", a process with the others")
        });
    }
}

impl Check for Generator {
    fn check(&self, at: &str, mistakes: &mut Mistakes) {
        mistakes.unless(self.lag_p99_ms >= 0.0, || format!("{at}.lag_p99_ms is at least 0"));
        mistakes.unless(self.window >= 16, || format!("{at}.window is at least 16"));
        mistakes.unless(self.connects_in_flight > 0, || format!("{at}.connects_in_flight is at least 1"));
        mistakes.unless((0.0..=3_600.0).contains(&self.settle_seconds), || {
            format!("{at}.settle_seconds is 0 to 3600")
        });
    }
}

fn share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn rate(value: f64) -> bool {
    (0.0..=100_000.0).contains(&value)
}

fn seconds(value: f64) -> bool {
    value > 0.0 && value <= 10_000_000.0
}

fn is_kind(kind: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte);
    (1..=32).contains(&kind.len()) && kind.bytes().all(is_one)
}
