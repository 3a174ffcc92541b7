//! Forgetting a user.

use super::*;

/// Everything that is told of the lobby and kept of it, as text.
fn all_of(state: &State) -> String {
    let view = serde_json::to_string(&state.view(&user("ann"), |_| false)).unwrap();
    let events = state.events_after(state.recent_floor()).into_iter().flatten();
    let events: Vec<_> = events.map(|event| serde_json::to_string(&event.change).unwrap()).collect();
    let snapshot = String::from_utf8_lossy(&state.snapshot()).into_owned();
    [view, events.join(" "), snapshot].join(" ")
}

#[test]
fn nothing_of_who_was_forgotten_is_told_or_kept_and_no_seq_is_missing() {
    let table = check(
        "ann create -> updated joined:ann:host
         ann set {\"hosts\":[\"robert\",\"ann\"]} -> updated
         robert join -> joined:robert:player
         robert wear {\"hat\":\"bowler\"} -> updated
         robert chat secret -> message
         ann chat hello -> message
         robert react 7 wow -> reacted
         robert chat again #n1 -> message
         robert edit 9 different -> edited
         robert keep score 7 -> message
         robert read 11 -> read 11 unread 0
         ann mute robert -> muted:robert
         ann transfer robert -> host:robert
         service kick robert -> kicked:robert host:ann
         ann forget robert -> forbidden
         ann+admin forget robert -> forbidden
         service forget robert -> updated",
    );
    let state = &table.state;
    let told = all_of(state);
    for gone in ["ROBERT", "secret", "again", "different", "bowler"] {
        assert!(!told.contains(gone), "{gone} in {told}");
    }
    // What keeps somebody out, or silent, has to know whom.
    assert_eq!(told.matches("robert").count(), 2, "{told}");
    assert!(state.restrictions.was_put_out(&user("robert")));
    assert!(state.restrictions.check_mute(&user("robert"), table.now).is_err());
    assert!(told.contains("hello") && told.contains("nobody"));
    let seqs: Vec<_> = state.events_after(state.recent_floor()).unwrap().map(|event| event.seq.0).collect();
    assert_eq!(seqs, (1..=state.seq.0).collect::<Vec<_>>());
    assert!(state.view(&user("ann"), |_| false).retained.is_empty());
    // A repeat of what was forgotten is no repeat.
    assert!(
        state.outcome(&user("robert"), &CommandKey::Nonce(Nonce::new("n1").unwrap()), table.now).is_none()
    );
}

#[test]
fn members_are_not_forgotten_and_neither_are_strangers_of_no_lobby() {
    let table = check(
        "service forget bob -> not_found
         ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         service forget bob -> conflict
         bob leave -> left:bob
         service forget bob -> updated
         service forget bob -> updated
         ann close -> closed
         service forget ann -> updated
         bob join -> lobby_closed
         bob create -> updated joined:bob:host",
    );
    assert_eq!(table.state.floor, Seq(8), "a closed lobby stays closed");
}

#[test]
fn a_command_that_expects_another_state_is_refused() {
    let mut table = check("ann create -> updated joined:ann:host");
    let caller = |expects| Caller {
        session: SessionId::new("call-1").unwrap(),
        user: user("ann"),
        name: "ANN".to_owned(),
        roles: Vec::new(),
        system: false,
        expects: Some(Seq(expects)),
    };
    let update = LobbyCommand::Update(Update {
        settings: Some(object("{\"name\":\"x\"}")),
        lock: None,
        attributes: None,
    });
    for (command, expects, fits) in [
        (&update, 2, true),
        (&update, 1, false),
        (&update, 3, false),
        (&LobbyCommand::Close, 2, true),
        (&LobbyCommand::Close, 1, false),
    ] {
        let decided = table.state.decide(&caller(expects), command, true, table.now, &table.rules);
        match decided {
            Ok(_) => assert!(fits),
            Err(refusal) => assert!(!fits && refusal.code == ErrorCode::Conflict, "{refusal:?}"),
        }
    }
    table.run("ann chat hi");
    assert!(table.state.decide(&caller(2), &update, true, table.now, &table.rules).is_err());
}
