//! A scenario that cannot be read as a whole: its parts, each read and checked on its own, and then how what can be read
//! fits together, so that no mistake hides another. `scenario/reading.rs` calls it; it never makes a scenario to run.

use serde::de::DeserializeOwned;
use toml::Value;

use super::check::{Check, Mistakes};
use super::{
    Chaos, Churn, Clients, Game, Generator, Lobbies, Phase, Scenario, Sender, Size, SlowReaders, Threshold,
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

/// Parts that are lists; their entries are looked at.
const LISTS: [&str; 4] = ["senders", "phases", "thresholds", "chaos"];

/// What can be done with a part, or with an entry of one that is a list.
struct Part {
    reads: fn(&Value) -> bool,
    check: fn(&str, &Value, &mut Mistakes),
    /// Takes away the keys that nobody knows, so that the others are looked at.
    strip: fn(&mut Value),
}

impl Part {
    fn of(key: &str) -> Option<Part> {
        Some(match key {
            "name" | "description" => Part::plain::<String>(),
            "seed" => Part::plain::<u64>(),
            "thresholds" => Part::plain::<Threshold>(),
            "clients" => Part::checked::<Clients>(),
            "lobbies" => Part { check: lobbies, strip: strip_lobbies, ..Part::checked::<Lobbies>() },
            "churn" => Part::checked::<Churn>(),
            "slow_readers" => Part::checked::<SlowReaders>(),
            "game" => Part::checked::<Game>(),
            "generator" => Part::checked::<Generator>(),
            "senders" => Part::checked::<Sender>(),
            "phases" => Part::checked::<Phase>(),
            "chaos" => Part::checked::<Chaos>(),
            _ => return None,
        })
    }

    fn plain<T: DeserializeOwned>() -> Part {
        let check = |at: &str, value: &Value, mistakes: &mut Mistakes| drop(part::<T>(at, value, mistakes));
        Part { reads: |value| read::<T>(value).is_ok(), check, strip: strip::<T> }
    }

    fn checked<T: DeserializeOwned + Check>() -> Part {
        Part { check: checked::<T>, ..Part::plain::<T>() }
    }
}

/// Tells every mistake.
pub(super) fn check(table: &Value, mistakes: &mut Mistakes) {
    let Some(parts) = table.as_table() else { return };
    for needed in NEEDED.iter().filter(|needed| !parts.contains_key(**needed)) {
        mistakes.add(format!("{needed} is missing"));
    }
    for (key, value) in parts {
        match Part::of(key) {
            Some(part) if LISTS.contains(&&**key) => match value.as_array() {
                Some(entries) => check_each(key, entries, part.check, mistakes),
                None => mistakes.add(format!("{key} is a list")),
            },
            Some(part) => (part.check)(key, value, mistakes),
            None => mistakes.add(format!("{key} is no part of a scenario; there are {}", PARTS.join(", "))),
        }
    }
    if let Some(rest) = readable(table) {
        rest.check_together(mistakes);
    }
}

fn check_each(key: &str, entries: &[Value], check: fn(&str, &Value, &mut Mistakes), mistakes: &mut Mistakes) {
    for (index, entry) in entries.iter().enumerate() {
        check(&format!("{key}.{index}"), entry, mistakes);
    }
}

/// The scenario without what cannot be read, so that mistakes between parts are told beside those within them. What
/// stands in for a part fits all others.
fn readable(table: &Value) -> Option<Scenario> {
    let mut table = table.as_table()?.clone();
    table.retain(|key, _| PARTS.contains(&key));
    let has_game = table.contains_key("game");
    for (key, value) in &mut table {
        let Some(part) = Part::of(key) else { continue };
        match value.as_array_mut().filter(|_| LISTS.contains(&&**key)) {
            Some(entries) => entries.iter_mut().for_each(part.strip),
            None => (part.strip)(value),
        }
    }
    let fits = |key: &str, value: &Value| Part::of(key).is_some_and(|part| (part.reads)(value));
    for (key, part) in &mut table {
        if let Some(phases) = part.as_array_mut().filter(|_| key == "phases") {
            // It keeps its name, and is long enough for every fault.
            for phase in phases.iter_mut().filter(|phase| !fits("phases", phase)) {
                let name = phase.get("name").and_then(Value::as_str)?.to_owned();
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
    // Without a game settings might ask too much of the clients; a game asks for both.
    let settings = if has_game { "settings = { reports = 'members' }" } else { "" };
    let needed = [
        ("name", Value::String("-".to_owned())),
        ("clients", stand_in("count = 1\nenter = 'user'")?),
        ("lobbies", stand_in(&format!("sizes = [{{ members = 1 }}]\n{settings}"))?),
    ];
    for (key, part) in needed {
        table.entry(key).or_insert(part);
    }
    Value::Table(table).try_into().ok()
}

fn stand_in(text: &str) -> Option<Value> {
    toml::from_str::<toml::Table>(text).ok().map(Value::Table)
}

/// Looks at each size that cannot be read by itself, and then at the rest.
fn lobbies(at: &str, value: &Value, mistakes: &mut Mistakes) {
    let mut rest = value.clone();
    let sizes = rest.get_mut("sizes").and_then(Value::as_array_mut).into_iter().flatten();
    for (index, size) in sizes.enumerate().filter(|(_, size)| read::<Size>(size).is_err()) {
        checked::<Size>(&format!("{at}.sizes.{index}"), size, mistakes);
        if let Some(one) = stand_in("members = 1") {
            *size = one;
        }
    }
    checked::<Lobbies>(at, &rest, mistakes);
}

fn strip_lobbies(value: &mut Value) {
    for size in value.get_mut("sizes").and_then(Value::as_array_mut).into_iter().flatten() {
        strip::<Size>(size);
        if read::<Size>(size).is_err()
            && let Some(one) = stand_in("members = 1")
        {
            *size = one;
        }
    }
    strip::<Lobbies>(value);
}

fn strip<T: DeserializeOwned>(value: &mut Value) {
    while let Err(error) = read::<T>(value)
        && let Some(key) = unknown_key(&error)
        && value.as_table_mut().is_some_and(|table| table.remove(key).is_some())
    {}
}

fn checked<T: DeserializeOwned + Check>(at: &str, value: &Value, mistakes: &mut Mistakes) {
    let Some((part, gone)) = part::<T>(at, value, mistakes) else { return };
    let mut own = Mistakes::default();
    part.check(at, &mut own);
    // Something stands in for what was not read: what is said of that, or of how it fits, is not the tester's mistake.
    let place = format!("{at}.");
    let is_told = |mistake: &str| {
        let Some(rest) = mistake.strip_prefix(&place) else { return gone.is_empty() };
        !gone.iter().any(|key| rest.starts_with(&**key))
    };
    own.into_iter().filter(|mistake| is_told(mistake)).for_each(|mistake| mistakes.add(mistake));
}

/// Reads one part; all of its keys that are unknown, wrong or missing are told. Gives what can be read, and the keys
/// that are something else than they should be.
fn part<T: DeserializeOwned>(at: &str, value: &Value, mistakes: &mut Mistakes) -> Option<(T, Vec<String>)> {
    let mut rest = value.clone();
    let mut gone: Vec<String> = Vec::new();
    loop {
        let error = match read::<T>(&rest) {
            Ok(part) => return Some((part, gone)),
            Err(error) => error,
        };
        if let Some(key) = unknown_key(&error) {
            mistakes.add(format!("{at}: {error}"));
            rest.as_table_mut()?.remove(key)?;
            continue;
        }
        if let Some(key) = missing_key(&error) {
            // Where it was there it was wrong, and has been told.
            if !gone.iter().any(|gone| gone == key) {
                mistakes.add(format!("{at}: {error}"));
                gone.push(key.to_owned());
            }
            let instead = substitute::<T>(&rest, key)?;
            rest.as_table_mut()?.insert(key.to_owned(), instead);
            continue;
        }
        let Some(wrong) = wrong_key::<T>(&rest, &error) else {
            mistakes.add(format!("{at}: {}", plain(&error)));
            return None;
        };
        mistakes.add(format!("{at}.{wrong}: {}", plain(&error)));
        rest.as_table_mut()?.remove(&wrong);
        gone.push(wrong);
    }
}

/// A value that may stand at a key, so that the others can be looked at.
fn substitute<T: DeserializeOwned>(rest: &Value, key: &str) -> Option<Value> {
    let sizes = Value::Array(vec![stand_in("members = 1")?]);
    let all = [Value::Integer(1), Value::String("-".to_owned()), Value::String("kill".to_owned()), sizes];
    let fits = |value: &Value| {
        let mut with = rest.clone();
        let given =
            with.as_table_mut().is_some_and(|table| table.insert(key.to_owned(), value.clone()).is_none());
        let error = read::<T>(&with).err();
        given && error.is_none_or(|error| wrong_key::<T>(&with, &error).is_none_or(|wrong| wrong != key))
    };
    all.into_iter().find(fits)
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    value.clone().try_into::<T>().map_err(|error| error.message().to_owned())
}

fn unknown_key(error: &str) -> Option<&str> {
    error.strip_prefix("unknown field `")?.split('`').next()
}

fn missing_key(error: &str) -> Option<&str> {
    error.strip_prefix("missing field `")?.strip_suffix('`')
}

/// The key without which something else is wrong, or nothing, is the one that was.
fn wrong_key<T: DeserializeOwned>(value: &Value, error: &str) -> Option<String> {
    let table = value.as_table().filter(|_| missing_key(error).is_none())?;
    let is_it = |key: &&String| {
        let mut less = table.clone();
        less.remove(*key);
        read::<T>(&Value::Table(less)).err().is_none_or(|other| other != error)
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
