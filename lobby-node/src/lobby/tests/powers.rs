//! Who may do what to whom, and what it means for those it is done to.

use super::*;

/// Ann hosts, mod moderates, bob plays, cat watches.
const EVERYBODY: &str = "ann create -> updated joined:ann:host
     mod join -> joined:mod:player
     bob join -> joined:bob:player
     cat watch -> joined:cat:spectator
     ann moderator mod -> mod:moderator";

fn table() -> Table {
    let mut table = Table::new();
    Arc::get_mut(&mut table.rules.limits).unwrap().members_per_lobby_max = 10;
    check_at(table, EVERYBODY)
}

#[test]
fn whoever_stands_higher_may_put_out_ban_and_mute() {
    // Every verb, by whom it is done, to whom, and how it comes out.
    let (yes, no, out) = ("yes", "forbidden", "not_member");
    let cases = [
        ("ann", [("mod", yes), ("bob", yes), ("cat", yes), ("ann", no)]),
        ("mod", [("mod", no), ("bob", yes), ("cat", yes), ("ann", no)]),
        ("bob", [("mod", no), ("bob", no), ("cat", no), ("ann", no)]),
        ("cat", [("mod", no), ("bob", no), ("cat", no), ("ann", no)]),
        ("eve", [("mod", out), ("bob", out), ("cat", out), ("ann", out)]),
        ("bot+moderator", [("mod", yes), ("bob", yes), ("cat", yes), ("ann", yes)]),
        ("bot+admin", [("mod", yes), ("bob", yes), ("cat", yes), ("ann", yes)]),
        ("bot+server", [("mod", yes), ("bob", yes), ("cat", yes), ("ann", yes)]),
    ];
    for (who, targets) in cases {
        for (whom, expected) in targets {
            for (verb, past) in [("kick", "kicked"), ("ban", "banned"), ("mute", "muted")] {
                let came = table().run(&format!("{who} {verb} {whom}"));
                let expected = match expected {
                    "yes" if whom == "ann" && verb != "mute" => format!("{past}:ann host:mod"),
                    "yes" => format!("{past}:{whom}"),
                    refused => refused.to_owned(),
                };
                assert_eq!(came, expected, "{who} {verb} {whom}");
            }
        }
    }
}

#[test]
fn a_kicked_member_is_out_until_it_joins_by_itself() {
    check_at(
        table(),
        "ann kick bob -> kicked:bob
         ann kick bob -> not_found
         bob chat hi -> not_member
         bob history -> not_member
         bob resume -> not_member
         bob join -> joined:bob:player
         bob leave -> left:bob
         bob resume -> joined:bob:player",
    );
}

#[test]
fn a_ban_holds_for_its_time_and_for_those_who_never_came() {
    check_at(
        table(),
        "ann ban bob 60 -> banned:bob
         ann ban eve -> banned:eve
         bob join -> banned
         bob watch -> banned
         bob resume -> banned
         eve join -> banned
         eve chat hi -> not_member
         ann wait 59
         bob join -> banned
         ann wait 1
         bob resume -> not_member
         bob join -> joined:bob:player
         ann unban bob -> not_found
         mod unban eve -> unbanned:eve
         mod unban eve -> not_found
         eve join -> joined:eve:player
         ann ban eve 0 -> bad_request
         ann ban eve 315360001 -> bad_request
         ann ban eve -> banned:eve
         ann close -> closed
         eve create -> updated joined:eve:host",
    );
    let mut table = check_at(table(), "ann ban bob 60 -> banned:bob\n ann wait 20");
    let join = LobbyCommand::Join(Join::default());
    let caller = Caller {
        session: SessionId::new("bob-1").unwrap(),
        user: user("bob"),
        name: "BOB".to_owned(),
        roles: Vec::new(),
        system: false,
        expects: None,
    };
    let refusal = table.state.decide(&caller, &join, true, table.now, &table.rules).unwrap_err();
    assert_eq!(refusal.retry_ms, Some(40_000), "when it ends");
    table.run("ann ban bob");
    let refusal = table.state.decide(&caller, &join, true, table.now, &table.rules).unwrap_err();
    assert_eq!(refusal.retry_ms, None, "it does not end");
}

#[test]
fn a_muted_member_plays_and_listens_but_does_not_talk() {
    check_at(
        table(),
        "ann mute bob 60 -> muted:bob
         bob chat hi -> muted
         bob typing -> muted
         bob game -> ordered to Everyone
         bob ready -> ready:bob:true
         bob history -> history
         bob leave -> left:bob
         bob join -> joined:bob:player
         bob chat hi -> muted
         bob unmute bob -> forbidden
         mod unmute bob -> unmuted:bob
         mod unmute bob -> not_found
         bob chat hi -> message
         ann mute bob 60 -> muted:bob
         ann wait 60
         bob chat hi -> message
         ann mute mod -> muted:mod
         mod unmute mod -> forbidden
         mod chat hi -> muted
         mod kick bob -> kicked:bob",
    );
}

#[test]
fn spectators_watch() {
    check_at(
        table(),
        "cat chat hi -> forbidden
         cat game -> forbidden
         cat typing -> forbidden
         cat history -> history
         cat ready -> forbidden
         ann player cat -> cat:player
         cat chat hi -> message
         cat spectator cat -> cat:spectator
         cat player cat -> forbidden",
    );
}

#[test]
fn hosts_make_moderators_and_moderators_say_who_plays() {
    check_at(
        table(),
        "mod spectator bob -> bob:spectator
         mod player bob -> bob:player
         mod moderator bob -> forbidden
         mod spectator ann -> forbidden
         bob spectator cat -> forbidden
         ann host bob -> bad_request
         ann spectator ann -> forbidden
         ann player ann -> forbidden
         ann player eve -> not_found
         ann moderator bob -> bob:moderator
         bob player mod -> forbidden
         mod player mod -> forbidden
         mod spectator mod -> mod:spectator
         ann player bob -> bob:player
         bot+admin moderator bob -> bob:moderator
         eve moderator bob -> not_member",
    );
}

#[test]
fn the_lobby_is_handed_over() {
    let table = check_at(
        table(),
        "bob transfer bob -> forbidden
         mod transfer mod -> forbidden
         eve transfer bob -> not_member
         ann transfer eve -> not_found
         ann transfer ann -> conflict
         ann transfer bob -> host:bob
         ann transfer ann -> forbidden
         bob kick ann -> kicked:ann
         bot+server transfer cat -> host:cat
         cat chat hi -> message",
    );
    assert_eq!(table.state.member(&user("bob")).unwrap().role, MemberRole::Player);
    assert_eq!(table.state.view(&user("bob"), |_| false).host, Some(user("cat")));
}

#[test]
fn what_a_nonce_did_it_does_once() {
    check_at(
        table(),
        "ann kick bob #1 -> kicked:bob
         bob join -> joined:bob:player
         ann kick bob #1 -> dup 7
         bob chat hi -> message",
    );
}

#[test]
fn a_lobby_that_closes_when_empty_closes_behind_a_kick() {
    check(
        "ann create closing -> updated joined:ann:host
         bot+moderator kick ann -> kicked:ann closed
         ann join -> lobby_closed",
    );
}

#[test]
fn states_of_the_format_before_are_read() {
    // A snapshot of format 1: the same names, without games and restrictions.
    let table = check("ann create -> updated joined:ann:host\n bob join -> joined:bob:player");
    let bytes = table.state.snapshot();
    let mut value: serde_json::Value = rmp_serde::from_slice(&bytes[1..]).unwrap();
    let map = value.as_object_mut().unwrap();
    for name in ["game", "games", "restrictions", "entrance", "voices"] {
        assert!(map.remove(name).is_some(), "{name}");
    }
    let mut old = vec![1];
    rmp_serde::encode::write_named(&mut old, &value).unwrap();
    let read = State::from_snapshot(&old).unwrap();
    assert_eq!(read.snapshot(), bytes);
    let mut newer = bytes;
    newer[0] = 3;
    assert!(State::from_snapshot(&newer).is_err());
}
