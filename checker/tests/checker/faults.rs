//! Faults planted into valid histories: each is found, under its own rule. Here is how one is planted and what the
//! files of `faults/` share; each of them holds the faults of one kind.

mod authors;
mod delivery;
mod journal;
mod members;
mod order;

use mlms_checker::{Event, Options, Record, Rule, Verdict, What, check_records};

use crate::service::{Plan, Random, play};

type History = Vec<Record<'static>>;

/// Plants the fault into many histories; wherever there was a place for it, the rule reports it.
fn finds(rule: Rule, plan: impl Fn(u64) -> Plan, plant: impl Fn(&mut History, &mut Random) -> Option<()>) {
    let mut planted = 0;
    for seed in 0..60 {
        let mut records = play(&plan(seed));
        if plant(&mut records, &mut Random(seed)).is_none() {
            continue;
        }
        planted += 1;
        let report = check_records(&records, &Options::default());
        assert_eq!(report.verdict(), Verdict::Failed, "{rule}, seed {seed}: {report}");
        assert!(report.broke(rule), "{rule}, seed {seed}: {report}");
        let violation = report.violations.iter().find(|violation| violation.rule == rule).unwrap();
        assert!(!violation.lines.is_empty(), "{rule}: evidence is missing");
    }
    assert!(planted >= 5, "{rule}: only {planted} histories had a place for the fault");
}

fn calm(seed: u64) -> Plan {
    Plan { owner_changes: false, removals: false, disconnects: false, ..Plan::new(seed) }
}

fn rough(seed: u64) -> Plan {
    Plan { removals: true, steps: 2000, ..calm(seed) }
}

/// The indexes of records that fit.
fn places(records: &History, fits: impl Fn(&Record<'static>) -> bool) -> Vec<usize> {
    (0..records.len()).filter(|index| fits(&records[*index])).collect()
}

fn one(random: &mut Random, places: &[usize]) -> Option<usize> {
    (!places.is_empty()).then(|| places[random.below(places.len())])
}

fn delivered<'r>(record: &'r Record<'static>) -> Option<(&'r str, &'r Event<'static>)> {
    match &record.what {
        What::Delivered { lobby, event } => Some((lobby, event)),
        _ => None,
    }
}

fn is_message(record: &Record<'static>, sequenced: bool) -> bool {
    delivered(record).is_some_and(|(_, event)| event.ev == "message" && event.seq.is_some() == sequenced)
}

/// Everything in the history that shows an event of this lobby.
fn events_of<'r>(records: &'r mut History, name: &str) -> impl Iterator<Item = &'r mut Event<'static>> {
    records.iter_mut().flat_map(move |record| match &mut record.what {
        What::Delivered { lobby, event } if *lobby == name => std::slice::from_mut(event).iter_mut(),
        What::History(history) if history.lobby == name => history.events.iter_mut(),
        _ => [].iter_mut(),
    })
}

fn final_events(records: &History, name: &str) -> Vec<Event<'static>> {
    let pages = records.iter().filter_map(|record| match &record.what {
        What::History(history) if history.is_final && history.lobby == name => Some(&history.events),
        _ => None,
    });
    pages.flatten().cloned().collect()
}

fn last_page<'r>(records: &'r mut History, name: &str) -> &'r mut Vec<Event<'static>> {
    let pages = records.iter_mut().rev().filter_map(|record| match &mut record.what {
        What::History(history) if history.is_final && history.lobby == name => Some(&mut history.events),
        _ => None,
    });
    pages.into_iter().next().unwrap()
}

/// Appends an event to a lobby's final history.
fn append(records: &mut History, name: &str, mut event: Event<'static>) {
    let head = final_events(records, name).last().unwrap().clone();
    event.seq = Some(head.seq.unwrap() + 1);
    event.epoch = head.epoch;
    last_page(records, name).push(event);
}

/// Lets a process see something just before everything settles.
fn insert_late(records: &mut History, process: &str, what: What<'static>) -> Option<()> {
    let index = records.iter().position(|record| matches!(record.what, What::Settled {}))?;
    let t = records[index].t;
    records.insert(index, Record { t, process: process.to_owned().into(), what });
    Some(())
}

fn invoke_of(records: &History, process: &str, number: u64) -> Option<usize> {
    records.iter().position(|record| {
        record.process == process && matches!(&record.what, What::Invoke(i) if i.call == number)
    })
}

fn lobby_at(records: &History, process: &str, number: u64) -> Option<String> {
    let What::Invoke(invoke) = &records[invoke_of(records, process, number)?].what else { return None };
    Some(invoke.lobby.to_string())
}
