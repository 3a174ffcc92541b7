//! Faults planted into valid histories: each is found, under its own rule.

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

#[test]
fn an_answer_before_the_append() {
    finds(Rule::AckedLost, Plan::new, |records, random| {
        let acked = places(records, |r| matches!(&r.what, What::Ok { seq: Some(_), .. }));
        let ok = one(random, &acked)?;
        let What::Ok { call, seq, .. } = records[ok].what else { return None };
        let lobby = lobby_at(records, &records[ok].process.clone(), call)?;
        // The event never was: nobody gets it, and what comes after takes its seq.
        let lost = seq?;
        records.retain(|r| delivered(r).is_none_or(|(name, event)| name != lobby || event.seq != seq));
        for record in records.iter_mut() {
            if let What::History(history) = &mut record.what {
                history.events.retain(|event| history.lobby != lobby || event.seq != seq);
            }
        }
        events_of(records, &lobby).filter(|e| e.seq > seq).for_each(|e| e.seq = e.seq.map(|seq| seq - 1));
        (lost > 0).then_some(())
    });
}

#[test]
fn an_acknowledged_event_is_missing_in_the_final_history_only() {
    finds(Rule::AckedLost, Plan::new, |records, _| {
        let event = last_page(records, "lobby-0").pop()?;
        records
            .iter()
            .any(|r| matches!(&r.what, What::Ok { seq, .. } if *seq == event.seq && seq.is_some()))
            .then_some(())
            .filter(|()| {
                event.nonce.is_some()
                    && records.iter().any(|r| {
                        let What::Ok { call, seq, .. } = r.what else { return false };
                        seq == event.seq && lobby_at(records, &r.process, call).as_deref() == Some("lobby-0")
                    })
            })
    });
}

#[test]
fn a_reading_on_the_way_misses_an_acknowledged_event() {
    finds(Rule::AckedLost, Plan::new, |records, _| {
        let mut acked = 0;
        for index in 0..records.len() {
            match &records[index].what {
                What::Ok { call, seq: Some(seq), .. } => {
                    let lobby = lobby_at(records, &records[index].process, *call)?;
                    acked = if lobby == "lobby-0" { acked.max(*seq) } else { acked };
                }
                What::History(history) => {
                    let last = history.events.last().and_then(|event| event.seq);
                    if history.lobby == "lobby-0"
                        && !history.is_final
                        && last.is_some()
                        && last == Some(acked)
                    {
                        let What::History(history) = &mut records[index].what else { return None };
                        history.events.pop();
                        return Some(());
                    }
                }
                _ => {}
            }
        }
        None
    });
}

#[test]
fn a_delivered_event_is_missing_in_the_final_history() {
    finds(Rule::DeliveredLost, Plan::new, |records, random| {
        let joins = places(records, |r| delivered(r).is_some_and(|(_, event)| event.ev == "joined"));
        let (lobby, event) = delivered(&records[one(random, &joins)?])?;
        let (lobby, seq) = (lobby.to_owned(), event.seq);
        for record in records.iter_mut() {
            if let What::History(history) = &mut record.what
                && history.is_final
                && history.lobby == lobby
            {
                history.events.retain(|event| event.seq != seq);
            }
        }
        Some(())
    });
}

#[test]
fn a_history_with_a_hole() {
    finds(Rule::HistoryGap, Plan::new, |records, random| {
        let reads = places(records, |r| matches!(&r.what, What::History(h) if h.events.len() > 3));
        let What::History(history) = &mut records[one(random, &reads)?].what else { return None };
        history.events.remove(1);
        Some(())
    });
}

#[test]
fn two_events_with_one_seq() {
    finds(Rule::OneEventPerSeq, Plan::new, |records, random| {
        let messages = places(records, |r| is_message(r, true));
        let (a, b) = (one(random, &messages)?, one(random, &messages)?);
        let (_, other) = delivered(&records[b])?;
        let other = other.clone();
        let What::Delivered { event, .. } = &mut records[a].what else { return None };
        if other.nonce == event.nonce || other.nonce.is_none() || event.nonce.is_none() {
            return None;
        }
        *event = Event { seq: event.seq, epoch: event.epoch, ..other };
        Some(())
    });
}

#[test]
fn one_event_with_two_seqs() {
    finds(Rule::OneSeqPerEvent, calm, |records, random| {
        let events = final_events(records, "lobby-0");
        let messages: Vec<_> = events.into_iter().filter(|event| event.nonce.is_some()).collect();
        let event = messages.get(random.below(messages.len().max(1)))?.clone();
        append(records, "lobby-0", event);
        Some(())
    });
}

#[test]
fn the_dedupe_window_is_forgotten_on_failover() {
    finds(Rule::NonceOnce, Plan::new, |records, random| {
        let dups = places(records, |r| matches!(&r.what, What::Ok { dup: true, .. }));
        let ok = one(random, &dups)?;
        let What::Ok { call, seq, .. } = records[ok].what else { return None };
        let lobby = lobby_at(records, &records[ok].process.clone(), call)?;
        let event = final_events(records, &lobby).into_iter().find(|event| event.seq == seq)?;
        append(records, &lobby, event);
        Some(())
    });
    // The other way to see it: two oks that differ.
    finds(Rule::NonceOnce, Plan::new, |records, random| {
        let dups = places(records, |r| matches!(&r.what, What::Ok { dup: true, .. }));
        let index = one(random, &dups)?;
        let What::Ok { seq, .. } = &mut records[index].what else { return None };
        *seq = seq.map(|seq| seq + 1);
        Some(())
    });
}

#[test]
fn off_by_one_on_resume() {
    finds(Rule::Gap, Plan::new, |records, random| {
        let resumed = places(records, |r| matches!(&r.what, What::Resumed(entry) if entry.missed > 1));
        let index = one(random, &resumed)?;
        let process = records[index].process.clone();
        let What::Resumed(entry) = &records[index].what else { return None };
        let (lobby, first) = (entry.lobby.clone(), entry.seq + 1);
        let is_seq = |r: &Record<'_>, seq| {
            r.process == process
                && matches!(&r.what, What::Delivered { lobby: l, event } if *l == lobby && event.seq == Some(seq))
        };
        // What comes after a leave that crossed the resume is held against nothing but the leave.
        let leaves = |r: &Record<'_>| {
            r.process == process && matches!(&r.what, What::Invoke(i) if i.op == "leave" && i.lobby == lobby)
        };
        if records.iter().any(leaves) {
            return None;
        }
        let ends = |r: &Record<'_>| match &r.what {
            What::Disconnected {} => r.process == process,
            What::Joined(_) | What::Resumed(_) | What::Snapshot(_) => r.process == process,
            _ => false,
        };
        let end = (index + 1..records.len()).find(|index| ends(&records[*index])).unwrap_or(records.len());
        let missed = (index..end).find(|index| is_seq(&records[*index], first))?;
        (missed..end).find(|index| is_seq(&records[*index], first + 1))?;
        records.remove(missed);
        Some(())
    });
}

#[test]
fn a_duplicate_on_resume() {
    finds(Rule::Duplicate, Plan::new, |records, random| {
        let resumed = places(records, |r| matches!(&r.what, What::Resumed(entry) if entry.seq > 0));
        let index = one(random, &resumed)?;
        let What::Resumed(entry) = &records[index].what else { return None };
        let event = final_events(records, &entry.lobby).into_iter().find(|e| e.seq == Some(entry.seq))?;
        let what = What::Delivered { lobby: entry.lobby.clone(), event };
        let again = Record { what, ..records[index].clone() };
        records.insert(index + 1, again);
        Some(())
    });
}

#[test]
fn the_last_relay_batch_is_dropped() {
    finds(Rule::Incomplete, calm, |records, _| {
        let settled = records.iter().filter(|record| matches!(record.what, What::Settled {}));
        for process in settled.map(|record| record.process.clone()).collect::<Vec<_>>() {
            let index = records.iter().rposition(|r| {
                r.process == process && delivered(r).is_some_and(|(_, event)| event.seq.is_some())
            })?;
            let (lobby, event) = delivered(&records[index])?;
            let is_head = event.seq == final_events(records, lobby).last()?.seq;
            let is_known = records.iter().enumerate().any(|(other, r)| {
                other != index && delivered(r).is_some_and(|(l, e)| l == lobby && e.seq == event.seq)
            });
            let left = records.iter().any(|r| {
                r.process == process
                    && matches!(&r.what, What::Invoke(i) if i.op == "leave" && i.lobby == lobby)
            });
            // A second join that is answered later brings the position along.
            let again = records[index..].iter().any(|r| {
                r.process == process && matches!(&r.what, What::Joined(entry) if entry.lobby == lobby)
            });
            if is_head && is_known && !left && !again && event.user.is_none() {
                records.remove(index);
                return Some(());
            }
        }
        None
    });
}

#[test]
fn a_reordered_delivery() {
    finds(Rule::Reordered, calm, |records, random| {
        let messages = places(records, |r| is_message(r, true));
        let index = one(random, &messages)?;
        let (lobby, event) = delivered(&records[index])?;
        let next = (index + 1..records.len()).find(|next| {
            records[*next].process == records[index].process
                && delivered(&records[*next]).is_some_and(|(l, e)| l == lobby && e.seq > event.seq)
        })?;
        let what = records[next].what.clone();
        records[next].what = std::mem::replace(&mut records[index].what, what);
        Some(())
    });
}

#[test]
fn a_delivery_after_the_ban() {
    finds(Rule::AfterRemoval, rough, |records, random| {
        let (process, lobby, seq, _) = removed(records, random)?;
        let event = final_events(records, &lobby).into_iter().find(|event| event.seq > Some(seq))?;
        insert_late(records, &process, What::Delivered { lobby: lobby.into(), event })
    });
}

#[test]
fn an_unsequenced_delivery_after_the_ban() {
    finds(Rule::AfterRemoval, rough, |records, random| {
        let (process, lobby, _, ok) = removed(records, random)?;
        let later = records[ok..].iter().find_map(|record| match &record.what {
            What::Invoke(invoke)
                if invoke.class.is_some() && invoke.lobby == lobby && record.t > records[ok].t =>
            {
                Some((invoke.kind.clone(), invoke.body.clone(), record.process.clone()))
            }
            _ => None,
        })?;
        let (kind, body, sender) = later;
        let from = records.iter().find_map(|record| match &record.what {
            What::Connected { user } if record.process == sender => Some(user.clone()),
            _ => None,
        });
        let event = Event { ev: "message".into(), kind, from, body, ..Event::default() };
        insert_late(records, &process, What::Delivered { lobby: lobby.into(), event })
    });
}

/// A process whose user was kicked or banned with an ok, that was connected to the end and never joined again:
/// with the lobby, the seq and the place of the ok.
fn removed(records: &History, random: &mut Random) -> Option<(String, String, u64, usize)> {
    let oks = places(records, |r| matches!(&r.what, What::Ok { seq: Some(_), .. }));
    let start = random.below(oks.len().max(1));
    for ok in oks[start..].iter().chain(&oks[..start]).copied() {
        let What::Ok { call, seq: Some(seq), .. } = records[ok].what else { continue };
        let asked = invoke_of(records, &records[ok].process, call)?;
        let What::Invoke(invoke) = &records[asked].what else { continue };
        let Some(target) = invoke.user.as_ref() else { continue };
        let lobby = invoke.lobby.clone();
        let told = records.iter().position(|r| {
            delivered(r)
                .is_some_and(|(l, e)| l == lobby && e.seq == Some(seq) && e.user.as_ref() == Some(target))
                && records.iter().any(|c| {
                    c.process == r.process && matches!(&c.what, What::Connected { user } if user == target)
                })
        });
        let Some(told) = told else { continue };
        let name = records[told].process.clone();
        let of_target = |r: &Record<'_>| {
            let mut all = records.iter().filter(|c| c.process == r.process);
            all.any(|c| matches!(&c.what, What::Connected { user } if user == target))
        };
        let is_gone = |r: &Record<'_>| match &r.what {
            What::Joined(e) | What::Resumed(e) | What::Snapshot(e) => e.lobby == lobby && of_target(r),
            What::Invoke(invoke) => invoke.op == "leave" && invoke.lobby == lobby && of_target(r),
            _ => false,
        };
        let since = told.min(asked);
        if !records[since..].iter().any(is_gone) {
            return Some((name.into_owned(), lobby.into_owned(), seq, ok));
        }
    }
    None
}

#[test]
fn a_message_that_nobody_sent() {
    finds(Rule::Invented, Plan::new, |records, random| {
        let messages = places(records, |r| is_message(r, false));
        let index = one(random, &messages)?;
        let What::Delivered { event, .. } = &mut records[index].what else { return None };
        event.body = Some("never said".into());
        Some(())
    });
    finds(Rule::Invented, Plan::new, |records, random| {
        let messages = places(records, |r| is_message(r, true));
        let index = one(random, &messages)?;
        let (lobby, event) = delivered(&records[index])?;
        let (lobby, seq) = (lobby.to_owned(), event.seq);
        for event in events_of(records, &lobby).filter(|event| event.seq == seq) {
            event.nonce = Some("never used".into());
        }
        Some(())
    });
}

#[test]
fn a_join_and_a_kick_that_nobody_asked_for() {
    for ev in ["joined", "kicked"] {
        finds(Rule::Invented, calm, |records, _| {
            let (user, by) = (Some("stranger".into()), Some("user-1".into()));
            append(records, "lobby-0", Event { ev: ev.into(), user, by, ..Event::default() });
            Some(())
        });
    }
}

#[test]
fn an_epoch_that_goes_back() {
    finds(Rule::EpochBack, Plan::new, |records, random| {
        let events = final_events(records, "lobby-0");
        let later: Vec<_> = events.windows(2).filter(|pair| pair[0].epoch > Some(1)).collect();
        let seq = later.get(random.below(later.len().max(1)))?[1].seq;
        events_of(records, "lobby-0").filter(|e| e.seq == seq).for_each(|e| e.epoch = Some(1));
        Some(())
    });
}

#[test]
fn more_members_than_the_lobby_holds() {
    finds(Rule::Capacity, Plan::new, |records, _| {
        for record in records.iter_mut() {
            if let What::Capacity { members, .. } = &mut record.what {
                *members = 1;
            }
        }
        Some(())
    });
    finds(Rule::Capacity, Plan::new, |records, random| {
        let rosters = places(records, |r| matches!(r.what, What::Roster { .. }));
        let index = one(random, &rosters)?;
        let What::Roster { members, .. } = &mut records[index].what else { return None };
        *members = 5;
        Some(())
    });
}

#[test]
fn a_member_who_joins_again_without_having_left() {
    finds(Rule::Membership, calm, |records, _| {
        let events = final_events(records, "lobby-0");
        let left: Vec<_> = events.iter().filter(|e| e.ev == "left").map(|e| e.user.clone()).collect();
        let joined = events.iter().find(|e| e.ev == "joined" && !left.contains(&e.user))?.clone();
        append(records, "lobby-0", joined);
        Some(())
    });
}

#[test]
fn an_altered_body() {
    for everywhere in [false, true] {
        finds(Rule::Altered, Plan::new, |records, random| {
            let messages = places(records, |r| {
                is_message(r, true) && delivered(r).is_some_and(|(_, event)| event.nonce.is_some())
            });
            let index = one(random, &messages)?;
            let (lobby, event) = delivered(&records[index])?;
            let (lobby, seq) = (lobby.to_owned(), event.seq);
            if everywhere {
                events_of(records, &lobby)
                    .filter(|event| event.seq == seq)
                    .for_each(|event| event.body = Some("something else".into()));
            } else {
                let What::Delivered { event, .. } = &mut records[index].what else { return None };
                event.body = Some("something else".into());
            }
            Some(())
        });
    }
}

/// Exchanges the seqs of two events everywhere.
fn exchange(records: &mut History, lobby: &str, a: (u64, u64), b: (u64, u64)) {
    let oks: Vec<(usize, u64)> = (0..records.len())
        .filter_map(|index| {
            let What::Ok { call, seq: Some(seq), .. } = records[index].what else { return None };
            let is_here = lobby_at(records, &records[index].process, call).as_deref() == Some(lobby);
            is_here.then_some((index, seq))
        })
        .collect();
    for (index, old) in oks {
        if let What::Ok { seq, epoch, .. } = &mut records[index].what {
            let new = if old == a.0 { Some(b) } else { (old == b.0).then_some(a) };
            if let Some(new) = new {
                (*seq, *epoch) = (Some(new.0), Some(new.1));
            }
        }
    }
    let find = |seq| final_events(records, lobby).into_iter().find(|e| e.seq == Some(seq)).unwrap();
    let (at_a, at_b) = (find(a.0), find(b.0));
    for event in events_of(records, lobby) {
        let new = if event.seq == Some(a.0) { &at_b } else { &at_a };
        if event.seq == Some(a.0) || event.seq == Some(b.0) {
            *event = Event { seq: event.seq, epoch: event.epoch, ..new.clone() };
        }
    }
}

/// Messages of a lobby that were sent once: when, by which process, with which seq and epoch, and when the ok came.
fn sent_once(records: &History, lobby: &str) -> Vec<(u64, String, (u64, u64), u64)> {
    let sends = records.iter().filter_map(|record| match &record.what {
        What::Invoke(i) if i.op == "send" && i.lobby == lobby && i.nonce.is_some() => Some((record, i)),
        _ => None,
    });
    let ok_of = |process: &str, number: u64| {
        records.iter().find_map(|record| match record.what {
            What::Ok { call, seq: Some(seq), epoch: Some(epoch), dup: false }
                if call == number && record.process == process =>
            {
                Some((record.t, (seq, epoch)))
            }
            _ => None,
        })
    };
    sends
        .filter_map(|(record, invoke)| {
            let (t, position) = ok_of(&record.process, invoke.call)?;
            Some((record.t, record.process.to_string(), position, t))
        })
        .collect()
}

#[test]
fn real_time_order_is_violated() {
    finds(Rule::RealTime, calm, |records, _| {
        let sends = sent_once(records, "lobby-0");
        let pairs = sends.iter().flat_map(|a| sends.iter().map(move |b| (a, b)));
        let (a, b) = pairs.into_iter().find(|(a, b)| a.3 < b.0)?;
        let (a, b) = (a.2, b.2);
        exchange(records, "lobby-0", a, b);
        Some(())
    });
}

#[test]
fn a_sender_s_messages_are_sequenced_out_of_order() {
    finds(
        Rule::SenderOrder,
        |seed| Plan { steps: 3000, ..calm(seed) },
        |records, _| {
            let sends = sent_once(records, "lobby-0");
            let pairs = sends.iter().flat_map(|a| sends.iter().map(move |b| (a, b)));
            let pipelined = pairs.into_iter().find(|(a, b)| a.1 == b.1 && a.0 < b.0 && b.0 < a.3)?;
            let (a, b) = (pipelined.0.2, pipelined.1.2);
            exchange(records, "lobby-0", a, b);
            Some(())
        },
    );
}

#[test]
fn an_event_before_the_ok_of_the_join() {
    finds(Rule::BeforeJoin, Plan::new, |records, random| {
        let entries =
            places(records, |r| matches!(r.what, What::Joined(_) | What::Snapshot(_) | What::Resumed(_)));
        let index = one(random, &entries)?;
        let (What::Joined(entry) | What::Snapshot(entry) | What::Resumed(entry)) = &records[index].what
        else {
            return None;
        };
        // A join on top of a membership may be preceded by events.
        let is_in = records[..index].iter().any(|r| {
            r.process == records[index].process
                && matches!(&r.what, What::Joined(e) | What::Resumed(e) | What::Snapshot(e) if e.lobby == entry.lobby)
        });
        let next = (index..records.len()).find(|next| {
            records[*next].process == records[index].process
                && delivered(&records[*next]).is_some_and(|(lobby, _)| lobby == entry.lobby)
        })?;
        if is_in {
            return None;
        }
        let what = records[next].what.clone();
        records[next].what = std::mem::replace(&mut records[index].what, what);
        Some(())
    });
}

/// Two ordered messages of one sender for everybody, as one process received them.
fn two_ordered(records: &History, random: &mut Random) -> Option<(usize, usize)> {
    let is_ordered = |record: &Record<'static>| {
        let (_, event) = delivered(record)?;
        let sent = records.iter().find_map(|r| match &r.what {
            What::Invoke(invoke) if invoke.body == event.body => Some((r.process.clone(), invoke)),
            _ => None,
        })?;
        let is_it = sent.1.class == Some(mlms_checker::Class::Ordered) && event.seq.is_none();
        is_it.then(|| (sent.0, sent.1.lobby.clone()))
    };
    let ordered = places(records, |record| is_ordered(record).is_some());
    let start = random.below(ordered.len().max(1));
    ordered[start..].iter().find_map(|first| {
        let receiver = &records[*first].process;
        let (sender, lobby) = is_ordered(&records[*first])?;
        let body = &delivered(&records[*first])?.1.body;
        // Sent when the receiver was certainly there.
        let sent = records.iter().position(|r| {
            r.process == sender && matches!(&r.what, What::Invoke(i) if i.body == *body && i.lobby == lobby)
        })?;
        let entered = records.iter().rposition(|r| {
            r.process == *receiver && matches!(&r.what, What::Joined(entry) if entry.lobby == lobby)
        })?;
        let next = ordered.iter().find(|next| {
            let sent_next = records.iter().position(|r| {
                let body = &delivered(&records[**next]).unwrap().1.body;
                matches!(&r.what, What::Invoke(invoke) if invoke.body == *body)
            });
            *next > first
                && sent_next.is_some_and(|sent| sent < *first)
                && records[sent].t > records[entered].t
                && records[**next].process == records[*first].process
                && is_ordered(&records[**next]) == is_ordered(&records[*first])
        })?;
        Some((*first, *next))
    })
}

#[test]
fn a_sender_s_ordered_messages_change_places() {
    finds(Rule::SenderOrder, calm, |records, random| {
        let (first, next) = two_ordered(records, random)?;
        let what = records[next].what.clone();
        records[next].what = std::mem::replace(&mut records[first].what, what);
        Some(())
    });
}

#[test]
fn an_ordered_message_is_lost_without_a_fault() {
    let plan = |seed| Plan { capacity: 10, ..calm(seed) };
    finds(Rule::OrderedLost, plan, |records, random| {
        let (first, _) = two_ordered(records, random)?;
        records.remove(first);
        Some(())
    });
    finds(Rule::OrderedLost, plan, |records, random| {
        let (_, last) = two_ordered(records, random)?;
        let process = records[last].process.clone();
        let leaves =
            |r: &Record<'_>| r.process == process && matches!(&r.what, What::Invoke(i) if i.op == "leave");
        let stays = !records.iter().any(leaves);
        records.remove(last);
        stays.then_some(())
    });
}

#[test]
fn an_excused_loss_is_no_fault() {
    for seed in 0..20 {
        let mut records = play(&calm(seed));
        let Some((first, _)) = two_ordered(&records, &mut Random(seed)) else { continue };
        records.remove(first);
        let options = Options { allow_ordered_loss: true, ..Options::default() };
        assert_eq!(check_records(&records, &options).verdict(), Verdict::Passed);
        let what = What::Fault { name: "node_killed".into(), for_us: u64::MAX };
        records.insert(0, Record { t: 0, process: "".into(), what });
        assert_eq!(check_records(&records, &Options::default()).verdict(), Verdict::Passed);
    }
}

#[test]
fn an_unsequenced_message_comes_twice() {
    finds(Rule::Duplicate, Plan::new, |records, random| {
        let messages = places(records, |r| is_message(r, false));
        let index = one(random, &messages)?;
        records.insert(index, records[index].clone());
        Some(())
    });
}

#[test]
fn a_message_for_somebody_else() {
    finds(Rule::Misdelivered, Plan::new, |records, random| {
        let targeted = places(records, |r| {
            is_message(r, false)
                && records.iter().any(|i| match (&i.what, delivered(r)) {
                    (What::Invoke(i), Some((_, event))) => !i.to.is_empty() && i.body == event.body,
                    _ => false,
                })
        });
        let index = one(random, &targeted)?;
        let body = delivered(&records[index])?.1.body.clone();
        for record in records.iter_mut() {
            if let What::Invoke(invoke) = &mut record.what
                && invoke.body == body
            {
                invoke.to = vec!["nobody".into()];
            }
        }
        // The sender itself may get it.
        let from = delivered(&records[index])?.1.from.clone()?;
        let is_sender = records.iter().any(|record| {
            record.process == records[index].process
                && matches!(&record.what, What::Connected { user } if *user == from)
        });
        (!is_sender).then_some(())
    });
}

#[test]
fn caught_up_at_the_wrong_seq() {
    finds(Rule::CaughtUp, Plan::new, |records, random| {
        let caught_up = places(records, |r| matches!(r.what, What::CaughtUp { .. }));
        let index = one(random, &caught_up)?;
        let What::CaughtUp { seq, .. } = &mut records[index].what else { return None };
        *seq += 1;
        Some(())
    });
}

#[test]
fn live_before_caught_up() {
    finds(Rule::CaughtUp, Plan::new, |records, random| {
        // A caught_up that comes one event late: what was live came before it.
        let early = places(records, |r| matches!(r.what, What::CaughtUp { .. }));
        let index = one(random, &early)?;
        let process = records[index].process.clone();
        let What::CaughtUp { lobby, .. } = &records[index].what else { return None };
        let lobby = lobby.clone();
        let is_next = |r: &Record<'_>| {
            r.process == process && matches!(&r.what, What::Delivered { lobby: of, .. } if *of == lobby)
        };
        let next = (index + 1..records.len()).find(|place| is_next(&records[*place]))?;
        let What::Delivered { event, .. } = &records[next].what else { return None };
        let position = event.seq?;
        let mut moved = records.remove(index);
        if let What::CaughtUp { seq, .. } = &mut moved.what {
            *seq = position;
        }
        records.insert(next, moved);
        Some(())
    });
}

#[test]
fn resumed_at_another_position() {
    finds(Rule::ResumePosition, Plan::new, |records, random| {
        let resumed = places(records, |r| matches!(&r.what, What::Resumed(entry) if entry.seq > 0));
        let index = one(random, &resumed)?;
        let What::Resumed(entry) = &mut records[index].what else { return None };
        entry.seq -= 1;
        Some(())
    });
}

#[test]
fn a_snapshot_that_does_not_know_the_past() {
    finds(Rule::StaleRead, Plan::new, |records, random| {
        let snapshots = places(records, |r| matches!(&r.what, What::Snapshot(entry) if entry.seq > 10));
        let index = one(random, &snapshots)?;
        let What::Snapshot(entry) = &mut records[index].what else { return None };
        (entry.seq, entry.epoch) = (1, 1);
        Some(())
    });
}

#[test]
fn a_refused_message_that_is_delivered() {
    for sequenced in [true, false] {
        finds(Rule::RefusedHappened, calm, |records, random| {
            let messages = places(records, |r| is_message(r, sequenced));
            let index = one(random, &messages)?;
            let body = delivered(&records[index])?.1.body.clone();
            let (process, number) = records.iter().find_map(|r| match &r.what {
                What::Invoke(invoke) if invoke.body == body => Some((r.process.clone(), invoke.call)),
                _ => None,
            })?;
            let ok = records.iter().position(|r| {
                r.process == process && matches!(r.what, What::Ok { call, .. } if call == number)
            })?;
            records[ok].what = What::Error { call: number, code: "rate_limited".into(), definite: None };
            Some(())
        });
    }
}

#[test]
fn a_message_after_the_leave() {
    finds(Rule::AfterLeave, calm, |records, _| {
        let leave = records.iter().find_map(|r| match &r.what {
            What::Invoke(invoke) if invoke.op == "leave" => Some((r.process.clone(), invoke.clone())),
            _ => None,
        })?;
        let (process, leave) = leave;
        let ok = records.iter().position(|r| {
            r.process == process && matches!(r.what, What::Ok { call, .. } if call == leave.call)
        })?;
        let asked = invoke_of(records, &process, leave.call)?;
        let returns = records[asked..].iter().any(|r| {
            r.process == process
                && matches!(&r.what, What::Invoke(i) if i.op == "join" && i.lobby == leave.lobby)
        });
        let sent = records[ok..].iter().find_map(|r| match &r.what {
            What::Invoke(i) if i.lobby == leave.lobby && r.t > records[ok].t && i.op == "send" => {
                i.body.clone()
            }
            _ => None,
        })?;
        let event = records.iter().find_map(|r| {
            let (_, event) = delivered(r)?;
            (event.body.as_ref() == Some(&sent)).then(|| event.clone())
        })?;
        let what = What::Delivered { lobby: leave.lobby.clone(), event };
        if returns { None } else { insert_late(records, &process, what) }
    });
}
