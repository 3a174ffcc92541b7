//! The breaches of rules that a part found. Every file of the engine adds to them; the verdict and the report read them.

use std::collections::BTreeMap;

use mlms_checker::Fault;
use serde::{Deserialize, Serialize};

/// Breaches that are told in full.
const TOLD_MAX: usize = 50;

/// Something had not come when the run ended.
const ABSENT: [&str; 4] = ["no_reply", "incomplete", "ordered_lost", "acked_lost"];

/// Breaches by rule, the first ones in full.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Faults {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) first: Vec<String>,
}

impl Faults {
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Those that no delay of the generator's explains.
    pub(crate) fn delivered_wrong(&self) -> u64 {
        let certain = self.counts.iter().filter(|(rule, _)| !ABSENT.contains(&rule.as_str()));
        certain.map(|(_, count)| count).sum()
    }

    pub(crate) fn add(&mut self, rule: &str, count: u64, text: impl FnOnce() -> String) {
        *self.counts.entry(rule.to_owned()).or_default() += count;
        if self.first.len() < TOLD_MAX {
            self.first.push(format!("{rule}: {}", text()));
        }
    }

    pub(crate) fn fault(&mut self, lobby: &str, who: &str, fault: &Fault) {
        self.add(fault.rule.name(), 1, || format!("lobby {lobby}, {who}: {}", fault.text));
    }

    pub(crate) fn merge(&mut self, other: &Faults) {
        for (rule, count) in &other.counts {
            *self.counts.entry(rule.clone()).or_default() += count;
        }
        self.first.extend(other.first.iter().cloned());
        self.first.truncate(TOLD_MAX);
    }
}
