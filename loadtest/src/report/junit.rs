//! The verdict as JUnit XML, for CI systems: a test case for the rules and one for each threshold.

use std::fmt::Write as _;

use super::date::date_time;
use super::plain;
use crate::outcome::Outcome;
use crate::verdict::Decision;

pub(super) fn page(outcome: &Outcome) -> String {
    let verdict = &outcome.verdict;
    // The generator was too slow for all of it, or for some thresholds only.
    let is_void = verdict.decision == Decision::Void && !verdict.void.is_empty();
    let void = verdict.tested.iter().filter(|tested| tested.is_void).count();
    let failures = verdict.tested.iter().filter(|tested| !tested.passed).count() - void;
    let (name, count) = (escaped(&outcome.scenario.name), verdict.tested.len() + 1);
    let errors = void + usize::from(is_void);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let totals = format!(
        "name=\"loadtest {name}\" tests=\"{count}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{:.3}\"",
        outcome.seconds
    );
    let begun = date_time(outcome.started_at);
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<testsuites {totals}>\n<testsuite {totals} skipped=\"0\" timestamp=\"{begun}\">");
    for tested in &verdict.tested {
        let (test, text) = (escaped(&tested.name), escaped(&tested.text));
        let details =
            if tested.name == "rules" { escaped(&outcome.faults.first.join("\n")) } else { text.clone() };
        let _ = match (tested.passed, tested.is_void) {
            (true, _) => writeln!(
                out,
                "  <testcase classname=\"{name}\" name=\"{test}\" time=\"0\"><system-out>{text}</system-out></testcase>"
            ),
            (false, true) => writeln!(
                out,
                "  <testcase classname=\"{name}\" name=\"{test}\" time=\"0\"><error message=\"{text}\" type=\"void\"/></testcase>"
            ),
            (false, false) => writeln!(
                out,
                "  <testcase classname=\"{name}\" name=\"{test}\" time=\"0\"><failure message=\"{text}\" type=\"missed\">{details}</failure></testcase>"
            ),
        };
    }
    let told = escaped(&verdict.void.join("; "));
    let _ = match is_void {
        true => writeln!(
            out,
            "  <testcase classname=\"{name}\" name=\"generator\" time=\"0\"><error message=\"{told}\" type=\"void\"/></testcase>"
        ),
        false => writeln!(out, "  <testcase classname=\"{name}\" name=\"generator\" time=\"0\"/>"),
    };
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in plain(text).chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_does_no_harm() {
        assert_eq!(escaped("a<b>&\"\u{1b}[0m\u{ffff}\n"), "a&lt;b&gt;&amp;&quot; [0m \n");
    }
}
