//! What outlasts the moment: read marks, values that are retained, reports.

use super::*;

fn retained(table: &Table) -> Vec<(u64, String)> {
    let state = table.state.view(&user("ann"), |_| false);
    let told = |event: &LobbyEvent| match &event.change {
        Change::Message { key: Some(key), body, .. } => (
            event.seq.0,
            format!("{key}={}", String::from_utf8(body.to(mlms_protocol::Encoding::Json).to_vec()).unwrap()),
        ),
        other => panic!("{other:?}"),
    };
    state.retained.iter().map(told).collect()
}

/// The same events and the snapshot give the same state.
fn restored(table: &Table) -> [State; 2] {
    let mut replayed = State::new(table.state.lobby.clone());
    for entry in &table.log {
        replayed.apply_entry(entry.clone());
    }
    [replayed, State::from_snapshot(&table.state.snapshot()).unwrap()]
}

#[test]
fn a_mark_goes_forward_only_and_counts_what_others_said_behind_it() {
    let mut table = check(
        "ann create -> updated joined:ann:host
         ann chat one -> message
         bob join -> joined:bob:player
         bob read 1 -> read 4 unread 0
         ann chat two -> message
         ann game -> ordered to Everyone
         ann keep score 1 -> message
         ann chat three -> message
         bob read 4 -> read 4 unread 2
         bob read 5 -> read 5 unread 1
         bob read 4 -> read 5 unread 1
         ann read 5 -> read 7 unread 0
         bob read 99 -> read 7 unread 0
         ann chat four -> message
         ann chat five -> message
         ann delete 8 -> deleted
         bob read 1 -> read 7 unread 1
         bob chat six -> message
         bob read 1 -> read 11 unread 0
         dan read 1 -> not_member
         bot+moderator read 1 -> not_member",
    );
    // A mark outlives the membership, and every way back of the state; a user's first one is where he came in.
    table = check_at(
        table,
        "ann chat seven -> message
         bob leave -> left:bob
         ann chat eight -> message
         cat join -> joined:cat:player
         cat read 1 -> read 15 unread 0",
    );
    for state in restored(&table) {
        let mark = state.mark_of(&user("bob"));
        assert_eq!((mark.read, mark.unread), (Seq(11), 2));
        assert_eq!(state.mark_of(&user("cat")).read, Seq(15));
    }
    assert_eq!(table.run("ann close"), "closed");
    assert_eq!(table.state.mark_of(&user("bob")).read, Seq(0));
}

#[test]
fn marks_go_along_with_the_next_entry_and_the_release_before_reads_it() {
    let mut table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         ann chat one -> message
         bob read 4 -> read 4 unread 0
         ann chat two -> message",
    );
    let entry = table.log.pop().unwrap();
    assert_eq!(entry.reads, [(user("bob"), Seq(4))]);
    #[derive(serde::Deserialize)]
    struct EntryBefore {
        events: Vec<LobbyEvent>,
    }
    let before: EntryBefore = rmp_serde::from_slice(&entry.encode()[1..]).unwrap();
    assert_eq!(before.events, entry.events);
}

#[test]
fn marks_of_those_who_left_are_bounded() {
    let mut table = check("ann create -> updated joined:ann:host");
    for number in 0..5_000 {
        table.run(&format!("u{number} join"));
        table.run(&format!("u{number} leave"));
    }
    assert_eq!(table.state.mark_of(&user("u0")).read, Seq(0), "the longest ago are forgotten");
    assert_ne!(table.state.mark_of(&user("u4999")).read, Seq(0));
    assert_ne!(table.state.mark_of(&user("ann")).read, Seq(0), "members are not");
}

#[test]
fn the_newest_value_of_each_key_lasts_and_null_takes_it_away() {
    let table = check(
        r#"ann create -> updated joined:ann:host
           ann keep score [0,0] -> message
           ann keep map "ice" -> message
           bob join -> joined:bob:player
           bob keep score [1,0] -> message"#,
    );
    assert_eq!(retained(&table), [(4, "map=\"ice\"".to_owned()), (6, "score=[1,0]".to_owned())]);
    assert!(table.state.view(&user("ann"), |_| false).messages.is_empty(), "they stand in one place");
    let table = check_at(
        table,
        "ann keep map null -> message
         bob edit 6 two -> edited
         ann keep old 1 -> message
         ann keep other 1 -> message
         ann delete 9 -> deleted",
    );
    assert_eq!(retained(&table), [(6, "score=\"two\"".to_owned()), (10, "other=1".to_owned())]);
    for state in restored(&table) {
        assert_eq!(state.view(&user("ann"), |_| false), table.state.view(&user("ann"), |_| false));
    }
    let table = check_at(
        table,
        "bob mute ann -> forbidden\nann close -> closed\nann create -> updated joined:ann:host",
    );
    assert!(retained(&table).is_empty());
}

#[test]
fn what_lasts_is_bounded_in_number_and_bytes() {
    let mut table = check("ann create -> updated joined:ann:host");
    for number in 0..64 {
        assert_eq!(table.run(&format!("ann keep k{number} 1")), "message");
    }
    check_at(
        table,
        "ann keep more 1 -> conflict
         ann keep k7 2 -> message
         ann keep k7 null -> message
         ann keep more 1 -> message
         ann keep k7 1 -> conflict
         ann keep k7 null -> message",
    );
    let mut table = check("ann create -> updated joined:ann:host");
    let long = format!("\"{}\"", "x".repeat(30_000));
    for (key, told) in [("a", "message"), ("b", "message"), ("c", "conflict"), ("b", "message")] {
        assert_eq!(table.run(&format!("ann keep {key} {long}")), told, "{key}");
    }
}

#[test]
fn a_member_reports_a_message_with_what_was_said_around_it() {
    check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         eve watch -> joined:eve:spectator
         ann chat one -> message
         bob chat two -> message
         ann chat three -> message
         bob denounce 5 rude -> report 5 among 6,7
         eve denounce 6 -> report 6 among 5,7
         ann mute bob -> muted:bob
         bob denounce 7 -> report 7 among 5,6
         bob denounce 6 -> bad_request
         bob denounce 4 -> not_found
         bob denounce 99 -> not_found
         dan denounce 5 -> not_member
         ann delete 6 -> deleted
         eve denounce 6 -> not_found",
    );
}
