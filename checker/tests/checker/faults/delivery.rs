//! What reaches a member, from the ok of its join on: each event once, in its place, also over a resume.

use mlms_checker::{Record, Rule, What};

use super::{calm, delivered, final_events, finds, is_message, one, places};
use crate::service::Plan;

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
