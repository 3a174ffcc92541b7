//! What is wrong with a configuration: every mistake with its place and its remedy, gathered so that one
//! failed start tells everything. A mistake never quotes the value of a secret setting.

use std::fmt;

/// One thing that is wrong: where it stands, what is wrong with it, how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The source: `mlms.toml, line 3, key node.listen`, `environment MLMS_LISTEN`, `flag --listen`, or a setting's key.
    pub place: String,
    pub what: String,
    pub mend: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.mend)
    }
}

/// All mistakes of one configuration, in the order of the sources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    pub mistakes: Vec<Mistake>,
}

impl ConfigErrors {
    /// All mistakes on one line, for a log.
    pub fn one_line(&self) -> String {
        let mistakes: Vec<String> = self.mistakes.iter().map(ToString::to_string).collect();
        mistakes.join(" | ")
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.mistakes.len();
        let noun = if count == 1 { "mistake" } else { "mistakes" };
        write!(f, "{count} {noun} in the configuration:")?;
        for mistake in &self.mistakes {
            write!(f, "\n  - {mistake}")?;
        }
        Ok(())
    }
}

/// What a parser finds wrong with a value; the place is added by whoever knows the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) mend: String,
}

pub(super) fn wrong<T>(what: impl Into<String>, mend: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), mend: mend.into() })
}

/// The known name that is nearest to a mistyped one, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 6)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance over bytes; names are short ASCII, longer ones are cut.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (&a.as_bytes()[..a.len().min(80)], &b.as_bytes()[..b.len().min(80)]);
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["MLMS_LISTEN", "MLMS_REDIS_URL", "MLMS_LIMIT_CHATS_PER_S"];
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(nearest(name, known.iter().copied()), expected, "{name}");
        };
        check("MLMS_LISTN", Some("MLMS_LISTEN"));
        check("MLMS_REDIS_URI", Some("MLMS_REDIS_URL"));
        check("MLMS_LIMIT_CHAT_PER_S", Some("MLMS_LIMIT_CHATS_PER_S"));
        check("MLMS_FOO", None);
        check("MLMS_COMPLETELY_DIFFERENT_THING", None);
    }
}
