//! The order of messages: by real time, by sender, and that of ordered messages, of which none is lost without a fault.

use mlms_checker::{Event, Options, Record, Rule, Verdict, What, check_records};

use super::{History, calm, delivered, events_of, final_events, finds, lobby_at, places};
use crate::service::{Plan, Random, play};

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
fn a_degraded_time_excuses_until_its_connection_ends() {
    for ends in [None, Some(What::Notice { code: "recovered".into() }), Some(What::Disconnected {})] {
        let is_excused = ends.is_none();
        let mut planted = 0;
        for seed in 0..20 {
            let mut records = play(&calm(seed));
            let Some((first, _)) = two_ordered(&records, &mut Random(seed)) else { continue };
            records.remove(first);
            let told = [
                Some(What::Connected { user: "zoe".into() }),
                Some(What::Notice { code: "degraded".into() }),
                Some(What::Notice { code: "degraded".into() }),
                ends.clone(),
            ];
            let told = told.into_iter().flatten().map(|what| Record { t: 0, process: "zoe".into(), what });
            records.splice(0..0, told);
            planted += 1;
            let report = check_records(&records, &Options::default());
            assert_eq!(report.broke(Rule::OrderedLost), !is_excused, "seed {seed}: {report}");
        }
        assert!(planted >= 3);
    }
}
