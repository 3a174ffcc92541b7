//! Who is in a lobby: how many, once each, and nothing more for whoever left or was removed.

use mlms_checker::{Event, Record, Rule, What};

use super::{
    History, append, calm, delivered, final_events, finds, insert_late, invoke_of, one, places, rough,
};
use crate::service::{Plan, Random};

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
