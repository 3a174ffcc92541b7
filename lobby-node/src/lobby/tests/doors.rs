//! Who comes in: settings, passwords, invites, and lobbies that nobody is told of.

use super::*;

#[test]
fn the_host_changes_the_settings_and_everybody_their_own_attributes() {
    let table = check(
        r#"ann create -> updated joined:ann:host
           bob join -> joined:bob:player
           bob set {"capacity":2} -> forbidden
           cat set {"capacity":2} -> not_member
           ann set {"capacity":2} -> updated
           cat join -> lobby_full
           ann set {"capacity":null} -> updated
           cat join -> joined:cat:player
           ann set {"capacity":9} -> bad_request
           ann set {"colour":"red"} -> bad_request
           ann set {"locked":true} -> bad_request
           ann set {"slow_mode_s":3601} -> bad_request
           bot+server set {"name":"Lounge"} -> updated
           bob wear {"team":"red","hat":1} -> updated
           bob wear {"hat":null} -> updated
           bot+server wear {"hat":1} -> not_member"#,
    );
    assert_eq!(table.state.settings.name.as_deref(), Some("Lounge"));
    assert_eq!(table.state.member(&user("bob")).unwrap().attributes, object(r#"{"team":"red"}"#));
    let long = format!(r#"bob wear {{"x":"{}"}} -> bad_request"#, "y".repeat(4_096));
    check_at(table, &long);
}

#[test]
fn a_locked_lobby_opens_to_its_password_alone() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         bob lock h1 -> forbidden
         ann lock h1 -> locked
         cat join -> wrong_password
         cat opens h2 -> wrong_password
         cat opens h1 -> joined:cat:player
         bob join -> attached
         bob leave -> left:bob
         bob join -> wrong_password
         bot+admin join -> joined:bot:player
         bot+admin leave -> left:bot
         ann unlock -> locked
         bob join -> joined:bob:player",
    );
    assert!(!table.state.settings.locked);
}

#[test]
fn an_invite_lets_in_as_often_and_as_long_as_it_says() {
    check(
        r#"ann create -> updated joined:ann:host
           ann set {"invite_only":true} -> updated
           bob join -> forbidden
           bob invite s1 -> not_member
           ann invite s1 1 60 -> invited
           ann invite s2 0 60 -> bad_request
           ann invite s2 1 0 -> bad_request
           bob invited wrong -> forbidden
           bob invited s1 -> invite_used joined:bob:player
           bob invite s3 -> forbidden
           bob leave -> left:bob
           bob invited s1 -> forbidden
           ann invite s4 5 60 -> invited
           ann wait 60
           bob invited s4 -> forbidden
           ann invite s5 -> invited
           ann lock h1 -> locked
           bob invited s5 -> invite_used joined:bob:player
           ann ban bob -> banned:bob
           bob invited s5 -> banned
           ann close -> closed
           ann create -> updated joined:ann:host
           ann set {"invite_only":true} -> updated
           bob invited s5 -> forbidden"#,
    );
}

#[test]
fn a_private_lobby_is_none_to_those_it_does_not_let_in() {
    let script = r#"ann create -> updated joined:ann:host
         ann set {"visibility":"private"} -> updated
         ann invite s1 -> invited"#;
    let commands = [
        "join",
        "watch",
        "opens h",
        "invited wrong",
        "leave",
        "chat hi",
        "game",
        "typing",
        "history",
        "roster",
        "close",
        "start",
        "finish",
        "ready",
        "kick ann",
        "ban ann",
        "mute ann",
        "transfer bob",
        "edit 3 x",
        "delete 3",
        "react 3 x",
        "set {}",
        "wear {}",
        "lock h",
        "invite s",
        "look",
        "report x 1",
    ];
    for command in commands {
        for (before, lobby) in [("", "none"), (script, "private")] {
            let caller = Caller {
                session: SessionId::new("bob-1").unwrap(),
                user: user("bob"),
                name: "BOB".to_owned(),
                roles: Vec::new(),
                system: false,
                expects: None,
            };
            let mut table = check(before);
            assert_eq!(table.run(&format!("bob {command}")), "not_found", "{command} of {lobby}");
            let leave = LobbyCommand::Leave;
            let refusal = table.state.decide(&caller, &leave, true, table.now, &table.rules).unwrap_err();
            assert_eq!(refusal.message, "there is no such lobby; `create` makes it");
        }
    }
    check(&format!(
        "{script}
         bob create -> forbidden
         bob invited s1 -> invite_used joined:bob:player
         bob leave -> left:bob
         bob resume -> not_found
         bot+moderator look -> look full:true
         bot+moderator join -> joined:bot:player
         ann lock h1 -> locked
         bob opens h2 -> not_found
         bob opens h1 -> joined:bob:player
         ann close -> closed
         cat join -> not_found
         cat chat hi -> not_found"
    ));
}

#[test]
fn a_guess_at_a_private_lobby_costs_what_a_guess_at_none_costs() {
    let caller = |name: &str| Caller {
        session: SessionId::new("session-1").unwrap(),
        user: user(name),
        name: name.to_owned(),
        roles: Vec::new(),
        system: false,
        expects: None,
    };
    let guess = || Join { password: Some("sesame".to_owned()), ..Join::default() };
    let tried = |script: &str, name: &str, join: &Join| {
        let table = check(script);
        table.state.lock_for(&caller(name), join, table.now).map(str::to_owned)
    };
    let public = "ann create -> updated joined:ann:host";
    let hidden = &format!("{public}\n ann set {{\"visibility\":\"private\"}} -> updated");
    let locked = &format!("{hidden}\n ann lock h1 -> locked");
    let banned = &format!("{locked}\n ann ban bob -> banned:bob");
    let decoy = tried("", "bob", &guess());
    assert!(decoy.is_some(), "no lobby");
    assert_eq!(tried(hidden, "bob", &guess()), decoy, "private, without a lock");
    assert_eq!(tried(banned, "bob", &guess()), decoy, "banned");
    assert_eq!(tried(locked, "bob", &guess()).as_deref(), Some("h1"));
    assert_eq!(tried(locked, "bob", &Join::default()), None, "nothing to try");
    assert_eq!(tried(locked, "ann", &guess()), None, "a member");
    assert_eq!(tried(public, "bob", &guess()), None, "everybody knows of it");
    let refusal = Refusal::new(ErrorCode::RateLimited, "too many wrong passwords");
    for (script, code) in [
        ("", ErrorCode::NotFound),
        (locked, ErrorCode::NotFound),
        (&format!("{public}\n ann lock h1 -> locked"), ErrorCode::RateLimited),
    ] {
        let told = check(script).state.too_many_guesses(&guess(), refusal.clone());
        assert_eq!(told.code, code, "{script}");
    }
}

#[test]
fn outsiders_see_a_lobby_from_outside() {
    check(
        "bob look -> not_found
         ann create -> updated joined:ann:host
         ann look -> look full:true
         bob look -> look full:false
         bot+server look -> look full:true
         ann close -> closed
         bob look -> lobby_closed",
    );
}

#[test]
fn the_host_policy_says_who_follows() {
    check(
        r#"ann create -> updated joined:ann:host
           ann set {"host_policy":"listed","hosts":["dan","cat"]} -> updated
           bob join -> joined:bob:player
           cat join -> joined:cat:player
           ann leave -> left:ann host:cat
           cat leave -> left:cat host:-
           ann join -> joined:ann:player
           dan join -> joined:dan:host
           dan set {"host_policy":"manual"} -> updated
           dan leave -> left:dan host:-
           dan join -> joined:dan:player
           bot+admin transfer bob -> host:bob"#,
    );
}
