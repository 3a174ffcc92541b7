//! From the text of a scenario file to a scenario, with `KEY=VALUE` overrides on top. A file with mistakes is refused
//! with all of them, each at its place.

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use super::check::{Check, Mistakes};
use super::{
    Chaos, Churn, Clients, Game, Generator, Lobbies, PRESETS, Phase, Scenario, Sender, SlowReaders, Threshold,
};

/// Parts that a scenario cannot do without.
const NEEDED: [&str; 4] = ["name", "clients", "lobbies", "phases"];

impl Scenario {
    /// Reads a preset by name, or a file, with `KEY=VALUE` overrides on top; `KEY` is a path like `phases.1.seconds`.
    ///
    /// # Errors
    /// The file cannot be read, or every mistake in it.
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
        let mut mistakes = Mistakes::default();
        for given in overrides {
            let outcome = match given.split_once('=') {
                Some((path, value)) => set(&mut table, path, value),
                None => Err(anyhow::anyhow!("write KEY=VALUE")),
            };
            if let Err(error) = outcome {
                mistakes.add(format!("{given}: {error:#}"));
            }
        }
        let scenario = table.clone().try_into::<Scenario>();
        match &scenario {
            Ok(scenario) => scenario.check("", &mut mistakes),
            Err(_) => parts(&table, &mut mistakes),
        }
        mistakes.told()?;
        Ok(scenario?)
    }
}

/// Looks at each part on its own, so that a mistake in one does not hide those in the others.
fn parts(table: &toml::Value, mistakes: &mut Mistakes) {
    let Some(table) = table.as_table() else { return };
    for needed in NEEDED.iter().filter(|needed| !table.contains_key(**needed)) {
        mistakes.add(format!("{needed} is missing"));
    }
    for (key, value) in table {
        match &**key {
            "name" | "description" => drop(part::<String>(key, value, mistakes)),
            "seed" => drop(part::<u64>(key, value, mistakes)),
            "clients" => checked::<Clients>(key, value, mistakes),
            "lobbies" => checked::<Lobbies>(key, value, mistakes),
            "churn" => checked::<Churn>(key, value, mistakes),
            "slow_readers" => checked::<SlowReaders>(key, value, mistakes),
            "game" => checked::<Game>(key, value, mistakes),
            "generator" => checked::<Generator>(key, value, mistakes),
            "senders" => each(key, value, mistakes, checked::<Sender>),
            "phases" => each(key, value, mistakes, checked::<Phase>),
            "chaos" => each(key, value, mistakes, checked::<Chaos>),
            "thresholds" => {
                each(key, value, mistakes, |at, value, to| drop(part::<Threshold>(at, value, to)));
            }
            unknown => mistakes.add(format!("{unknown} is no part of a scenario")),
        }
    }
}

fn each(
    key: &str,
    value: &toml::Value,
    mistakes: &mut Mistakes,
    look: impl Fn(&str, &toml::Value, &mut Mistakes),
) {
    let Some(entries) = value.as_array() else {
        return mistakes.add(format!("{key} is a list"));
    };
    for (index, entry) in entries.iter().enumerate() {
        look(&format!("{key}.{index}"), entry, mistakes);
    }
}

fn checked<T: DeserializeOwned + Check>(at: &str, value: &toml::Value, mistakes: &mut Mistakes) {
    if let Some(part) = part::<T>(at, value, mistakes) {
        part.check(at, mistakes);
    }
}

/// Reads one part; all of its keys that are wrong are told.
fn part<T: DeserializeOwned>(at: &str, value: &toml::Value, mistakes: &mut Mistakes) -> Option<T> {
    let mut rest = value.clone();
    let mut gone: Vec<String> = Vec::new();
    loop {
        let error = match rest.clone().try_into::<T>() {
            Ok(part) => return gone.is_empty().then_some(part),
            Err(error) => error.message().to_owned(),
        };
        // It is missing because it was wrong.
        if gone.iter().any(|key| error == format!("missing field `{key}`")) {
            return None;
        }
        mistakes.add(format!("{at}: {error}"));
        let table = rest.as_table_mut().filter(|_| !error.starts_with("missing field"))?;
        // The key without which something else is wrong, or nothing, is the one that was.
        let wrong = table.keys().find(|key| {
            let mut less = table.clone();
            less.remove(*key);
            toml::Value::Table(less).try_into::<T>().err().is_none_or(|other| other.message() != error)
        });
        let wrong = wrong.cloned()?;
        table.remove(&wrong);
        gone.push(wrong);
    }
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
            ("senders=[{ rate = 1, kind = 'Shout' }]", "senders.0.kind"),
            ("thresholds=['games_missing <= 0']", "[game]"),
        ] {
            let error = format!("{:#}", Scenario::parse(LEAST, &[given.to_owned()]).unwrap_err());
            assert!(error.contains(told), "{given}: {error}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = "seeds = 1\nclients.count = 0\nclients.entre = 'lobby'\nlobbies.sizes = [{ members = 0 }]\n\
            thresholds = ['errors <= 0', 'erors <= 0']\n[[senders]]\nrate = -1\n\
            [[senders]]\nrate = 'fast'\nclass = 'durabel'\n[[phases]]\nname = 'a'\n[churn]\naway_ms = [5, 1]\n";
        let error = Scenario::parse(text, &["nonsense".to_owned()]).unwrap_err().to_string();
        let told: Vec<&str> = error.lines().skip(1).map(str::trim).collect();
        let wanted = [
            "nonsense: write KEY=VALUE",
            "name is missing",
            "churn.away_ms",
            "clients: unknown field `entre`",
            "lobbies.sizes.0.members",
            "phases.0: missing field `seconds`",
            "seeds is no part",
            "senders.0.rate",
            "senders.1: unknown variant `durabel`",
            "senders.1: invalid type: string \"fast\"",
            "thresholds.1: threshold \"erors <= 0\"",
        ];
        for wanted in wanted {
            assert!(told.iter().any(|told| told.starts_with(wanted)), "{wanted}: {told:#?}");
        }
        assert!(error.starts_with("11 mistakes"), "{error}");
    }
}
