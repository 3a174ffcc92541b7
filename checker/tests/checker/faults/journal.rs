//! What a lobby's history must hold: acknowledged and delivered events, one seq each, no hole, an epoch that does not go
//! back, the bodies that were sent.

use mlms_checker::{Event, Rule, What};

use super::{
    append, calm, delivered, events_of, final_events, finds, is_message, last_page, lobby_at, one, places,
};
use crate::service::Plan;

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
