//! The rules by which achievements are awarded: data in a TOML file, checked as a whole when it is read.

use std::collections::BTreeMap;
use std::path::Path;

use mlms_store::{GAMES_FINISHED, NAME_BYTES_MAX, Statistic, Statistics};
use serde::Deserialize;

/// The rules that come with the service.
const SHIPPED: &str = include_str!("../rules.toml");

/// What is wrong with a file of rules.
#[derive(Debug, thiserror::Error)]
#[error("the rules in {place}: {what}")]
pub struct RulesError {
    place: String,
    what: String,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// How often a statistic was reported; of `games_finished`, how many games.
    Count(String),
    Sum(String),
    MaxPerGame(String),
}

/// One achievement and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub achievement: String,
    pub measure: Measure,
    /// The least value that earns it.
    pub least: i64,
}

/// All rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    count: Option<String>,
    sum: Option<String>,
    max_per_game: Option<String>,
    more_than: Option<i64>,
    at_least: Option<i64>,
}

impl Rule {
    /// The statistic that it looks at.
    #[must_use]
    pub fn stat(&self) -> &str {
        match &self.measure {
            Measure::Count(stat) | Measure::Sum(stat) | Measure::MaxPerGame(stat) => stat,
        }
    }

    /// What it measures in a player's statistic.
    #[must_use]
    pub fn value(&self, statistic: &Statistic) -> i64 {
        match self.measure {
            Measure::Count(_) => statistic.times,
            Measure::Sum(_) => statistic.total,
            Measure::MaxPerGame(_) => statistic.highest,
        }
    }

    /// Whether a player with this statistic has earned it.
    #[must_use]
    pub fn is_earned(&self, statistic: &Statistic) -> bool {
        self.value(statistic) >= self.least
    }

    fn of(achievement: String, written: Written) -> Result<Rule, String> {
        let Written { count, sum, max_per_game, more_than, at_least } = written;
        let fits = |name: &str| {
            !name.is_empty()
                && name.len() <= NAME_BYTES_MAX
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if !fits(&achievement) {
            return Err(format!(
                "`{achievement}` is no name: give at most {NAME_BYTES_MAX} of A-Z a-z 0-9 _ . -"
            ));
        }
        let measure = match (count, sum, max_per_game) {
            (Some(stat), None, None) => Measure::Count(stat),
            (None, Some(stat), None) => Measure::Sum(stat),
            (None, None, Some(stat)) => Measure::MaxPerGame(stat),
            _ => return Err(format!("`{achievement}` needs one of count, sum and max_per_game")),
        };
        let least = match (more_than, at_least) {
            (Some(number), None) => number.checked_add(1),
            (None, Some(number)) => Some(number),
            _ => return Err(format!("`{achievement}` needs one of more_than and at_least")),
        };
        let least = least.filter(|least| *least > 0);
        let least = least.ok_or_else(|| format!("`{achievement}` would be everybody's or nobody's"))?;
        let rule = Rule { achievement, measure, least };
        if !fits(rule.stat()) {
            return Err(format!("`{}` names no statistic: `{}`", rule.achievement, rule.stat()));
        }
        if rule.stat() == GAMES_FINISHED && !matches!(rule.measure, Measure::Count(_)) {
            return Err(format!("`{}`: {GAMES_FINISHED} can only be counted", rule.achievement));
        }
        Ok(rule)
    }
}

impl Rules {
    /// Reads the rules of a file; without one, those that come with the service.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn load(file: Option<&Path>) -> Result<Rules, RulesError> {
        let Some(file) = file else { return Rules::parse(SHIPPED, "the service") };
        let place = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Rules::parse(&text, &place),
            Err(error) => Err(RulesError { place, what: error.to_string() }),
        }
    }

    fn parse(text: &str, place: &str) -> Result<Rules, RulesError> {
        let fail = |what: String| RulesError { place: place.to_owned(), what };
        let written: BTreeMap<String, toml::Value> =
            toml::from_str(text).map_err(|error| fail(error.to_string()))?;
        let (mut rules, mut mistakes) = (Vec::new(), Vec::new());
        for (achievement, written) in written {
            // The first line says what is wrong; the place in the file is lost by now.
            let read = written.try_into::<Written>().map_err(|error| {
                let what = error.message().lines().next().unwrap_or_default().to_owned();
                format!("`{achievement}`: {what}")
            });
            match read.and_then(|written| Rule::of(achievement, written)) {
                Ok(rule) => rules.push(rule),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if mistakes.is_empty() { Ok(Rules(rules)) } else { Err(fail(mistakes.join("; "))) }
    }

    /// The rule of an achievement.
    #[must_use]
    pub fn find(&self, achievement: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.achievement == achievement)
    }

    /// The names of all achievements.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| rule.achievement.as_str())
    }

    /// What a player with these statistics has earned.
    pub(crate) fn earned<'a>(&'a self, statistics: &'a Statistics) -> impl Iterator<Item = &'a Rule> {
        self.0
            .iter()
            .filter(|rule| statistics.get(rule.stat()).is_some_and(|statistic| rule.is_earned(statistic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(stat: &str, times: i64, total: i64, highest: i64) -> Statistics {
        Statistics::from([(stat.to_owned(), Statistic { times, total, highest })])
    }

    fn earned(rules: &Rules, statistics: &Statistics) -> Vec<String> {
        rules.earned(statistics).map(|rule| rule.achievement.clone()).collect()
    }

    #[test]
    fn the_shipped_rules_are_strict_about_more_than() {
        let rules = Rules::load(None).unwrap();
        assert_eq!(rules.names().collect::<Vec<_>>(), ["bruiser", "veteran"]);
        for (stat, (times, total, highest), expected) in [
            (GAMES_FINISHED, (1_000, 1_000, 1), &[][..]),
            (GAMES_FINISHED, (1_001, 1_001, 1), &["veteran"]),
            ("damage", (9, 9_000, 500), &[]),
            ("damage", (1, 501, 501), &["bruiser"]),
            ("healing", (1, 501, 501), &[]),
        ] {
            assert_eq!(
                earned(&rules, &statistics(stat, times, total, highest)),
                expected,
                "{stat} {highest}"
            );
        }
    }

    #[test]
    fn every_measure_and_both_thresholds() {
        let text = "[a]\ncount = 'kills'\nat_least = 3\n[b]\nsum = 'kills'\nmore_than = 3\n\
                    [c]\nmax_per_game = 'kills'\nat_least = 2";
        let rules = Rules::parse(text, "a test").unwrap();
        assert_eq!(earned(&rules, &statistics("kills", 3, 3, 1)), ["a"]);
        assert_eq!(earned(&rules, &statistics("kills", 2, 4, 2)), ["b", "c"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("[a]", "count, sum and max_per_game"),
            ("[a]\ncount = 'x'\nsum = 'x'\nmore_than = 1", "count, sum and max_per_game"),
            ("[a]\ncount = 'x'", "more_than and at_least"),
            ("[a]\ncount = 'x'\nmore_than = 1\nat_least = 2", "more_than and at_least"),
            ("[a]\ncount = 'x'\nat_least = 0", "everybody's"),
            ("[a]\ncount = 'x'\nmore_than = 9223372036854775807", "nobody's"),
            ("[a]\nsum = 'games_finished'\nat_least = 1", "can only be counted"),
            ("[a]\nsum = 'a b'\nat_least = 1", "names no statistic"),
            ("[\"a/b\"]\nsum = 'x'\nat_least = 1", "is no name"),
            ("[a]\nsum = 'x'\nat_lest = 1", "at_lest"),
            ("[a", ""),
        ] {
            let error = Rules::parse(text, "a test").unwrap_err().to_string();
            assert!(error.starts_with("the rules in a test:") && error.contains(what), "{text}: {error}");
        }
        assert!(Rules::load(Some(Path::new("/nowhere/rules.toml"))).is_err());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let text = "[good]\ncount = 'x'\nat_least = 1\n[a]\n[b]\nsum = 7\nat_least = 1\n\
                    [c]\ncount = 'x'\nat_lest = 1\n[\"d/e\"]\nsum = 'x'\nat_least = 1";
        let error = Rules::parse(text, "a test").unwrap_err().to_string();
        for mistake in
            ["`a` needs one of", "`b`: invalid type", "`c`: unknown field `at_lest`", "`d/e` is no name"]
        {
            assert!(error.contains(mistake), "{mistake} is not in: {error}");
        }
        assert!(!error.contains("good"), "{error}");
    }
}
