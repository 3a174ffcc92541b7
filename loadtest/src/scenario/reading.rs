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

/// All parts.
const PARTS: [&str; 13] = [
    "name",
    "description",
    "seed",
    "clients",
    "lobbies",
    "senders",
    "churn",
    "slow_readers",
    "game",
    "phases",
    "thresholds",
    "chaos",
    "generator",
];

/// Parts that are lists.
const LISTS: [&str; 4] = ["senders", "phases", "thresholds", "chaos"];

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
            Err(_) => {
                parts(&table, &mut mistakes);
                if let Some(rest) = readable(&table) {
                    rest.check_together(&mut mistakes);
                }
            }
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
            unknown => {
                mistakes.add(format!("{unknown} is no part of a scenario; there are {}", PARTS.join(", ")))
            }
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

/// The scenario without what cannot be read, so that mistakes between parts are told beside those within them. What
/// stands in for a part fits all others.
fn readable(table: &toml::Value) -> Option<Scenario> {
    let mut table = table.as_table()?.clone();
    table.retain(|key, _| PARTS.contains(&key));
    let has_game = table.contains_key("game");
    let fits = |key: &str, value: &toml::Value| match key {
        "name" | "description" => value.is_str(),
        "seed" => read::<u64>(value).is_ok(),
        "clients" => read::<Clients>(value).is_ok(),
        "lobbies" => read::<Lobbies>(value).is_ok(),
        "churn" => read::<Churn>(value).is_ok(),
        "slow_readers" => read::<SlowReaders>(value).is_ok(),
        "game" => read::<Game>(value).is_ok(),
        "generator" => read::<Generator>(value).is_ok(),
        "senders" => read::<Sender>(value).is_ok(),
        "phases" => read::<Phase>(value).is_ok(),
        "thresholds" => read::<Threshold>(value).is_ok(),
        _ => read::<Chaos>(value).is_ok(),
    };
    for (key, part) in &mut table {
        if let Some(phases) = part.as_array_mut().filter(|_| key == "phases") {
            // It keeps its name, and is long enough for every fault.
            for phase in phases.iter_mut().filter(|phase| !fits("phases", phase)) {
                let name = phase.get("name").and_then(toml::Value::as_str)?.to_owned();
                *phase = stand_in("seconds = 1e7")?;
                phase.as_table_mut()?.insert("name".to_owned(), name.into());
            }
        } else if let Some(entries) = part.as_array_mut().filter(|_| LISTS.contains(&&**key)) {
            entries.retain(|entry| fits(key, entry));
        }
    }
    table.retain(|key, part| LISTS.contains(&key) && part.is_array() || fits(key, part));
    if has_game {
        table.entry("game").or_insert(stand_in("rounds = 1\nseconds = 1")?);
    }
    let needed = [
        ("name", toml::Value::String("-".to_owned())),
        ("clients", stand_in("count = 1\nenter = 'user'")?),
        ("lobbies", stand_in("sizes = [{ members = 1 }]")?),
    ];
    for (key, part) in needed {
        table.entry(key).or_insert(part);
    }
    toml::Value::Table(table).try_into().ok()
}

fn stand_in(text: &str) -> Option<toml::Value> {
    toml::from_str::<toml::Table>(text).ok().map(toml::Value::Table)
}

fn checked<T: DeserializeOwned + Check>(at: &str, value: &toml::Value, mistakes: &mut Mistakes) {
    let Some((part, gone)) = part::<T>(at, value, mistakes) else { return };
    let mut own = Mistakes::default();
    part.check(at, &mut own);
    // What was not read has a default in its place: what is said of that, or of how parts fit, is not the tester's mistake.
    let place = format!("{at}.");
    let is_told = |mistake: &str| {
        let Some(rest) = mistake.strip_prefix(&place) else { return gone.is_empty() };
        !gone.iter().any(|key| rest.starts_with(&**key))
    };
    own.into_iter().filter(|mistake| is_told(mistake)).for_each(|mistake| mistakes.add(mistake));
}

/// Reads one part; all of its keys that are wrong are told. Gives what can be read, and the keys that could not.
fn part<T: DeserializeOwned>(
    at: &str,
    value: &toml::Value,
    mistakes: &mut Mistakes,
) -> Option<(T, Vec<String>)> {
    let mut rest = value.clone();
    let mut gone: Vec<String> = Vec::new();
    loop {
        let error = match read::<T>(&rest) {
            Ok(part) => return Some((part, gone)),
            Err(error) => error,
        };
        // It is missing because it was wrong.
        if let Some(key) = gone.iter().find(|key| error == format!("missing field `{key}`")) {
            let table = rest.as_table_mut()?;
            if table.insert(key.clone(), toml::Value::Integer(1)).is_some() {
                return None;
            }
            if read::<T>(&rest).is_err_and(|error| error.starts_with("invalid type")) {
                rest.as_table_mut()?.insert(key.clone(), toml::Value::String("-".to_owned()));
            }
            continue;
        }
        // Nothing stands in for it.
        if gone.iter().any(|key| rest.get(key).is_some()) {
            return None;
        }
        let Some(wrong) = wrong_key::<T>(&rest, &error) else {
            mistakes.add(format!("{at}: {}", plain(&error)));
            return None;
        };
        mistakes.add(match error.starts_with("unknown field") {
            true => format!("{at}: {error}"),
            false => format!("{at}.{wrong}: {}", plain(&error)),
        });
        rest.as_table_mut()?.remove(&wrong);
        gone.push(wrong);
    }
}

fn read<T: DeserializeOwned>(value: &toml::Value) -> Result<T, String> {
    value.clone().try_into::<T>().map_err(|error| error.message().to_owned())
}

/// The key without which something else is wrong, or nothing, is the one that was.
fn wrong_key<T: DeserializeOwned>(value: &toml::Value, error: &str) -> Option<String> {
    let table = value.as_table().filter(|_| !error.starts_with("missing field"))?;
    let is_it = |key: &&String| {
        let mut less = table.clone();
        less.remove(*key);
        read::<T>(&toml::Value::Table(less)).err().is_none_or(|other| other != error)
    };
    table.keys().find(is_it).cloned()
}

/// Rust's names of types are not the tester's.
fn plain(error: &str) -> String {
    let plain = error.replace("expected f64", "expected a number");
    ["u32", "u64", "usize"].iter().fold(plain, |text, name| {
        text.replace(&format!("expected {name}"), "expected a whole number, 0 or more")
    })
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
            thresholds = ['a: errors <= 0', 'erors <= 0', 'storm: errors <= 0']\n[[senders]]\nrate = -1\n\
            [[senders]]\nrate = 'fast'\nclass = 'durabel'\nkind = 'Shout'\n[[phases]]\nname = 'a'\n[churn]\naway_ms = [5, 1]\n";
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
            "senders.1.class: unknown variant `durabel`",
            "senders.1.rate: invalid type: string \"fast\", expected a number",
            "senders.1.kind is 1 to 32",
            "the threshold storm: errors <= 0 names a phase",
            "clients.count is 1 to",
            "thresholds.1: threshold \"erors <= 0\"",
        ];
        for wanted in wanted {
            assert!(told.iter().any(|told| told.starts_with(wanted)), "{wanted}: {told:#?}");
        }
        assert!(error.starts_with("14 mistakes"), "{error}");
    }
}
