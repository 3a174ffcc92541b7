//! A game from ready to its results.

use super::*;

#[test]
fn a_game_goes_from_ready_to_its_results() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat watch -> joined:cat:spectator
         bob ready -> ready:bob:true
         cat ready -> forbidden
         dan ready -> not_member
         bob finish -> forbidden
         ann finish -> conflict
         bot+server report damage 5 bob -> conflict
         bob start -> forbidden
         ann start #1 -> started:1
         ann start #1 -> dup 6
         ann start -> conflict
         bot+server report damage 501 bob -> reported:1:bob:damage:501
         bot+server report damage -3 ann -> reported:1:ann:damage:-3
         bot+server report damage 5 cat -> not_found
         bot+server report damage 5 -> not_found
         bot+server report Damage! 5 bob -> bad_request
         bot+server report damage 9007199254740993 bob -> bad_request
         ann report damage 5 bob -> forbidden
         bob report damage 5 -> forbidden
         bot+moderator report damage 5 bob -> forbidden
         bot+moderator finish -> forbidden
         dan finish -> not_member",
    );
    assert_eq!(table.state.view(&user("ann"), |_| false).game, Some(1));
    assert!(table.state.member(&user("bob")).unwrap().ready);
    let table = check_at(
        table,
        "ann finish -> finished:1:ann,bob
         ann finish -> conflict
         bot+server start -> started:2
         bot+admin finish -> finished:2:ann,bob
         ann close -> closed
         ann create -> updated joined:ann:host
         ann start -> started:3
         ann close -> closed
         ann create -> updated joined:ann:host",
    );
    assert_eq!(table.state.view(&user("ann"), |_| false).game, None, "a game ends with its lobby");
    assert!(!table.state.member(&user("ann")).unwrap().ready);
}

#[test]
fn the_settings_say_who_reports() {
    check(
        "ann create host-reports -> updated joined:ann:host
         bob join -> joined:bob:player
         ann start -> started:1
         ann report damage 5 bob -> reported:1:bob:damage:5
         bob report damage 5 -> forbidden",
    );
    check(
        "ann create all-report -> updated joined:ann:host
         bob join -> joined:bob:player
         cat watch -> joined:cat:spectator
         ann start -> started:1
         ann report damage 5 bob -> reported:1:bob:damage:5
         bob report damage 5 -> reported:1:bob:damage:5
         bob report damage 5 bob -> reported:1:bob:damage:5
         bob report damage 5 ann -> forbidden
         cat report damage 5 -> not_found
         dan report damage 5 -> not_member",
    );
}

#[test]
fn a_strict_lobby_lets_players_in_between_games() {
    check(
        "ann create strict -> updated joined:ann:host
         bob join -> joined:bob:player
         ann start -> started:1
         cat join -> conflict
         cat watch -> joined:cat:spectator
         bob join -> attached
         cat leave -> left:cat
         ann finish -> finished:1:ann,bob
         cat join -> joined:cat:player",
    );
}

#[test]
fn nobody_starts_a_game_without_players() {
    check(
        "ann create -> updated joined:ann:host
         ann leave -> left:ann host:-
         bot+server start -> conflict
         bob watch -> joined:bob:spectator
         bot+server start -> conflict",
    );
}
