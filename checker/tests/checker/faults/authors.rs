//! What nobody asked for, what was refused, and what was meant for somebody else.

use mlms_checker::{Event, Rule, What};

use super::{append, calm, delivered, events_of, finds, is_message, one, places};
use crate::service::Plan;

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
