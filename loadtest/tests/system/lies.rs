//! Every lie of a server is caught by its rule, and an honest server passes.

use std::fmt::Write as _;

use mlms_test_servers::Folder;

use crate::bench::{Ran, run};
use crate::liar::{Lie, serve};

/// Four members in one lobby, all of whom send.
fn told(lie: Lie, class: &str) -> Ran {
    told_within(lie, class, 2)
}

/// `patience`: seconds for what is under way at the end.
fn told_within(lie: Lie, class: &str, patience: u64) -> Ran {
    let folder = Folder::new("loadtest");
    let mut scenario = String::from("name = 'lies'\nclients.count = 4\nlobbies.sizes = [{ members = 4 }]\n");
    write!(
        scenario,
        "[[senders]]\nrate = 25\nkind = 'game'\nclass = '{class}'\nbytes = 90\narrivals = 'even'\n"
    )
    .unwrap();
    // Whoever comes first sends to nobody, as no rule is broken by that; the lie comes when all are there.
    scenario.push_str(
        "[[phases]]\nname = 'come'\nseconds = 0.4\nload = 0\n[[phases]]\nname = 'talk'\nseconds = 1\n",
    );
    write!(scenario, "[generator]\nsettle_seconds = {patience}\nlag_p99_ms = 10000\n").unwrap();
    let file = folder.path().join("lies.toml");
    std::fs::write(&file, scenario).unwrap();
    run(file.to_str().unwrap(), &serve(lie), &[])
}

#[track_caller]
fn caught(lie: Lie, class: &str, rule: &str) {
    let ran = told(lie, class);
    ran.expect(2);
    assert!(ran.broken().contains(&rule), "{lie:?}: {:?}\n{}", ran.broken(), ran.text);
    assert!(ran.junit.contains("<failure message="), "{}", ran.junit);
}

#[test]
fn an_honest_server_passes_in_every_class() {
    for class in ["durable", "ordered", "ephemeral"] {
        let ran = told(Lie::None, class);
        ran.expect(0);
        let total = &ran.result["total"]["counts"];
        let (sent, delivered) = (total["sent"].as_u64().unwrap(), total["deliveries"].as_u64().unwrap());
        assert!(sent > 50 && delivered == 4 * sent, "{class}: {sent} sent, {delivered} delivered");
        assert_eq!(total["ok"].as_u64(), Some(sent));
    }
}

#[test]
fn a_durable_message_that_one_member_misses() {
    caught(Lie::Drop, "durable", "gap");
}

#[test]
fn a_durable_message_that_comes_twice() {
    caught(Lie::Duplicate, "durable", "duplicate");
}

#[test]
fn a_durable_message_that_comes_late() {
    caught(Lie::Reorder, "durable", "reordered");
}

#[test]
fn an_ok_for_a_message_that_never_comes() {
    caught(Lie::AckOnly, "durable", "acked_lost");
}

#[test]
fn a_durable_message_that_is_altered() {
    caught(Lie::Alter, "durable", "altered");
}

#[test]
fn two_messages_with_one_seq() {
    caught(Lie::SameSeq, "durable", "one_event_per_seq");
}

#[test]
fn one_message_with_two_seqs() {
    caught(Lie::TwoSeqs, "durable", "one_seq_per_event");
}

#[test]
fn a_message_that_was_refused_and_came() {
    caught(Lie::RefuseAndDo, "durable", "refused_happened");
}

#[test]
fn a_command_without_a_reply() {
    caught(Lie::NoReply, "durable", "no_reply");
}

#[test]
fn a_message_that_nobody_sent() {
    caught(Lie::Invent, "durable", "invented");
}

#[test]
fn a_member_who_gets_nothing_any_more() {
    caught(Lie::Deaf, "durable", "incomplete");
    caught(Lie::Deaf, "ordered", "ordered_lost");
}

#[test]
fn an_ordered_message_that_one_member_misses() {
    caught(Lie::Drop, "ordered", "ordered_lost");
}

#[test]
fn an_ordered_message_that_one_member_gets_later_than_the_others() {
    let ran = told(Lie::Reorder, "ordered");
    ran.expect(2);
    // Whether the next one is of the same sender is chance.
    let broken = ran.broken();
    assert!(broken.contains(&"total_order") || broken.contains(&"sender_order"), "{}", ran.text);
}

#[test]
fn an_ordered_message_that_comes_twice() {
    caught(Lie::Duplicate, "ordered", "duplicate");
}

#[test]
fn an_ordered_message_that_is_altered() {
    caught(Lie::Alter, "ordered", "altered");
}

#[test]
fn a_message_of_another_kind() {
    caught(Lie::Kind, "durable", "altered");
    caught(Lie::Kind, "ordered", "altered");
}

#[test]
fn a_senders_messages_in_another_order_for_all() {
    caught(Lie::Overtake, "durable", "sender_order");
    caught(Lie::Overtake, "ordered", "sender_order");
}

#[test]
fn a_snapshot_that_hides_what_was_acknowledged() {
    caught(Lie::Snapshot, "durable", "stale_read");
}

#[test]
fn a_service_that_takes_nothing() {
    for (lie, class) in
        [(Lie::RefuseAll, "durable"), (Lie::ForbidAll, "durable"), (Lie::ForbidAll, "ordered")]
    {
        let ran = told(lie, class);
        ran.expect(2);
        assert!(ran.broken().is_empty() && ran.text.contains("MISSED"), "{lie:?}: {}", ran.text);
        let counts = &ran.result["total"]["counts"];
        assert!(counts["sent"].as_u64() < Some(200), "a message counts once: {counts}");
    }
}

#[test]
fn what_is_late_is_waited_for() {
    for class in ["durable", "ordered"] {
        told_within(Lie::Late, class, 60).expect(0);
    }
}

#[test]
fn ephemeral_messages_may_be_lost_and_not_doubled() {
    let ran = told(Lie::Drop, "ephemeral");
    let counts = &ran.expect(0).result["total"]["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(count("ephemeral_arrived"), count("ephemeral_owed") - 1, "{}", ran.text);
    caught(Lie::Duplicate, "ephemeral", "duplicate");
}
