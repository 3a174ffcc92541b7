//! Who is in: the first, the last, the host, as many as there is room for.

use super::*;

#[test]
fn the_first_to_join_creates_the_lobby_and_hosts_it() {
    check(
        "ann join -> not_found
         ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat create -> joined:cat:player
         ann join -> attached
         bob create -> attached",
    );
    check("ann watch -> not_found");
}

#[test]
fn a_spectator_does_not_become_host_while_a_player_could() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob watch -> joined:bob:spectator
         cat join -> joined:cat:player
         ann leave -> left:ann host:cat
         cat leave -> left:cat host:bob
         dan join -> joined:dan:player
         bob leave -> left:bob host:dan
         dan leave -> left:dan host:-
         eve join -> joined:eve:host",
    );
    assert_eq!(table.state.member(&user("eve")).unwrap().role, MemberRole::Host);
}

#[test]
fn a_full_lobby_refuses_and_lets_in_again_when_there_is_room() {
    check(
        "ann create 2 -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> lobby_full
         cat watch -> lobby_full
         bob join -> attached
         bob leave -> left:bob
         cat join -> joined:cat:player",
    );
    // The deployment's own limit holds where the lobby sets none, and bounds what it may set.
    check(
        "ann create 5 -> bad_request
         ann create 0 -> bad_request
         ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player
         dan join -> joined:dan:player
         eve join -> lobby_full",
    );
}

#[test]
fn only_who_may_creates() {
    let mut table = Table::new();
    table.rules.creators = Some(vec![Role::Server, Role::Admin]);
    check_at(
        table,
        "ann create -> forbidden
         ann+moderator create -> forbidden
         bot+server create -> updated joined:bot:host
         ann create -> joined:ann:player",
    );
}

#[test]
fn strangers_do_nothing() {
    for does in ["leave", "chat hi", "game", "wink", "typing", "history", "roster", "close", "start"] {
        let table = check(&format!("bob {does} -> not_found"));
        let table =
            check_at(table, &format!("ann create -> updated joined:ann:host\n bob {does} -> not_member"));
        let table = check_at(table, &format!("ann close -> closed\n ann {does} -> lobby_closed"));
        assert_eq!(table.state.seq, Seq(3), "{does}");
    }
}

#[test]
fn leaving_ends_a_membership_when_no_other_session_holds_it() {
    check(
        "ann create -> updated joined:ann:host
         ann leaves_one -> done
         ann chat hi -> message
         ann leave -> left:ann host:-
         ann chat hi -> not_member
         ann leave -> not_member
         ann join -> joined:ann:host
         ann times_out -> left:ann:timeout host:-",
    );
}

#[test]
fn a_lobby_that_closes_when_empty_closes_with_its_last_member() {
    check(
        "ann create closing -> updated joined:ann:host
         bob join -> joined:bob:player
         ann leave -> left:ann host:bob
         bob times_out -> left:bob:timeout closed
         bob join -> lobby_closed
         bob chat hi -> lobby_closed
         bob create -> updated joined:bob:host
         bob leave -> left:bob host:-
         ann join -> joined:ann:host",
    );
}

#[test]
fn the_host_closes_and_so_does_who_watches_over_all() {
    check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         bob close -> forbidden
         cat close -> not_member
         ann close -> closed
         ann chat hi -> lobby_closed
         bob join -> lobby_closed",
    );
    for role in ["moderator", "admin", "server"] {
        check(&format!("ann create -> updated joined:ann:host\n bot+{role} close -> closed"));
        check(&format!("bot+{role} close -> not_found"));
    }
}

#[test]
fn a_roster_is_paged_in_the_order_of_joining_whoever_comes_and_goes() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player
         ann roster -> ann,bob,cat next -
         ann roster - 2 -> ann,bob next 1
         bob leave -> left:bob
         bob join -> joined:bob:player
         ann roster 1 2 -> cat,bob next -
         ann roster - 0 -> bad_request
         ann roster - 101 -> bad_request
         ann roster first -> bad_request
         bob leave -> left:bob",
    );
    // The places go on where they were, also in the memory of another owner.
    let rebuilt = State::from_snapshot(&table.state.snapshot()).unwrap();
    check_at(
        Table { state: rebuilt, ..table },
        "dan join -> joined:dan:player
         ann roster 3 -> dan next -",
    );
}
