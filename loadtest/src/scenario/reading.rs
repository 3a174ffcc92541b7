//! From the text of a scenario file to a scenario, with `KEY=VALUE` overrides on top. A file with mistakes is refused
//! with all of them, each at its place.

use anyhow::{Context as _, bail};

use super::check::{Check as _, Mistakes};
use super::{PRESETS, Scenario, parts};

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
            Err(_) => parts::check(&table, &mut mistakes),
        }
        mistakes.told()?;
        Ok(scenario?)
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
            ("game={ rounds = 1, seconds = 1 }", "needs lobbies.settings.reports = \"members\""),
            ("game={ rounds = 1, seconds = 1, reports = 0 }", "needs lobbies.settings.reports = \"members\""),
        ] {
            let error = format!("{:#}", Scenario::parse(LEAST, &[given.to_owned()]).unwrap_err());
            assert!(error.contains(told), "{given}: {error}");
        }
    }

    #[test]
    fn a_game_needs_a_setting_that_lets_its_players_report() {
        let told = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(|given| (*given).to_owned()).collect();
            Scenario::parse(LEAST, &given).map(drop).map_err(|error| error.to_string())
        };
        let game = "game={ rounds = 1, seconds = 1 }";
        let with = ["clients.enter=user", "lobbies.settings.reports=members"];
        assert_eq!(told(&[game, with[0], with[1]]), Ok(()));
        // Tokens of servers may report about everybody: what is said is taken.
        assert_eq!(told(&[game, with[0], "lobbies.settings.reports=server"]), Ok(()));
        assert!(
            told(&[game, with[0], "lobbies.settings.capacity=4"])
                .unwrap_err()
                .starts_with("game: its players")
        );
        assert!(told(&[game, with[1]]).unwrap_err().starts_with("lobbies.settings needs clients.enter"));
        // Where the lobbies, the clients or the game cannot be read nothing is made up.
        for (wrong, place) in [
            ("lobbies.sizes=3", "lobbies.sizes"),
            ("clients.count=x", "clients.count"),
            ("game.rounds=x", "game.rounds"),
        ] {
            let error = told(&[game, with[0], with[1], wrong]).unwrap_err();
            assert!(error.starts_with(place), "{error}");
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

    #[test]
    fn an_unknown_or_missing_key_hides_no_mistake_beside_it() {
        let text = "name = 'x'\nclients = { count = 4, foo = 1 }\n\
            [lobbies]\nbar = 2\nsettings = { capacity = 3 }\n\
            sizes = [{ membrs = 3, weight = 'x' }, { members = 0 }, { members = -1, weight = -2 }]\n\
            [[senders]]\nrate = 1\nto = 'others'\nbaz = 1\n[[phases]]\nname = 'a'\nseconds = 1\n\
            [[phases]]\nname = 'a'\nsecnds = 1\nload = -3\n[[chaos]]\npid = 1\n[generator]\nlag = 1\nwindow = 'x'\n";
        let error = Scenario::parse(text, &[]).unwrap_err().to_string();
        let mut told: Vec<&str> = error.lines().skip(1).map(str::trim).collect();
        told.sort_unstable();
        let wanted = [
            "chaos.0: missing field `action`",
            "chaos.0: missing field `at`",
            "clients: unknown field `foo`",
            "generator.window: invalid type: string \"x\"",
            "generator: unknown field `lag`",
            "lobbies.settings needs clients.enter",
            "lobbies.sizes.0.weight: invalid type: string \"x\"",
            "lobbies.sizes.0: missing field `members`",
            "lobbies.sizes.0: unknown field `membrs`",
            "lobbies.sizes.1.members is at least 1",
            "lobbies.sizes.2.members: invalid value",
            "lobbies.sizes.2.weight is above 0",
            "lobbies: unknown field `bar`",
            "phases.1.load (a) is 0",
            "phases.1: missing field `seconds`",
            "phases.1: unknown field `secnds`",
            "phases: two have the same name",
            "senders.0: a message to others is not durable",
            "senders.0: unknown field `baz`",
        ];
        assert_eq!(told.len(), wanted.len(), "{told:#?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.starts_with(wanted), "{wanted}: {told}");
        }
    }
}
