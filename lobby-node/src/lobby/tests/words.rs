//! What is said, and what becomes of it.

use super::*;

#[test]
fn slow_mode_holds_players_back_and_not_those_who_moderate() {
    let mut table = check(
        r#"ann create -> updated joined:ann:host
           bob join -> joined:bob:player
           bob chat hi -> message
           ann set {"slow_mode_s":10} -> updated
           bob chat hi -> message
           bob chat hi -> slow_mode
           bob game -> ordered to Everyone
           ann chat hi -> message
           ann chat hi -> message
           ann wait 9
           bob chat hi -> slow_mode
           ann wait 1
           bob chat hi -> message"#,
    );
    let caller = Caller {
        session: SessionId::new("bob-1").unwrap(),
        user: user("bob"),
        name: "BOB".to_owned(),
        roles: Vec::new(),
        system: false,
        expects: None,
    };
    let chat = said("chat", "hi", Class::Durable, Recipients::Everyone);
    let refusal = table.state.decide(&caller, &chat, true, table.now, &table.rules).unwrap_err();
    assert_eq!(refusal.retry_ms, Some(10_000));
    let passing = said("chat", "hi", Class::Ordered, Recipients::Everyone);
    let refusal = table.state.decide(&caller, &passing, true, table.now, &table.rules).unwrap_err();
    assert_eq!(refusal.code.as_str(), "forbidden", "it is no way round");
    table.run(r#"ann set {"slow_mode_s":0}"#);
    assert_eq!(table.run("bob chat hi"), "message");
}

#[test]
fn the_word_filter_looks_at_whole_words_in_any_case() {
    check(
        r#"ann create -> updated joined:ann:host
           ann set {"word_filter":["Spam","bad*"]} -> updated
           ann chat SPAM! -> rejected
           ann chat spammer -> message
           ann chat no,badness -> rejected
           ann chat forbad -> message
           ann edit 4 spam -> rejected
           ann edit 4 fine -> edited"#,
    );
}

#[test]
fn the_services_own_words_are_refused_in_every_lobby() {
    let mut table = check("ann create -> updated joined:ann:host");
    table.rules.words = Arc::new(WordFilter::new(&["Spam".to_owned(), "bäd*".to_owned()]));
    assert_eq!(table.run("ann chat SPAM!"), "rejected");
    assert_eq!(table.run("ann chat BÄDLY"), "rejected");
    assert_eq!(table.run("ann chat spammer"), "message");
    assert_eq!(table.run("ann edit 3 spam"), "rejected");
    table.rules.words = Arc::default();
    assert_eq!(table.run("ann chat spam"), "message");
}

#[test]
fn during_maintenance_no_lobby_begins_and_those_that_are_there_go_on() {
    let mut table = check("ann create -> updated joined:ann:host");
    table.rules.maintenance = Some("back at nine".into());
    assert_eq!(table.run("bob join"), "joined:bob:player");
    assert_eq!(table.run("bob chat hi"), "message");
    table.run("ann close");
    assert_eq!(table.run("bob create"), "maintenance");
    let mut fresh = Table::new();
    fresh.rules.maintenance = Some("back at nine".into());
    assert_eq!(fresh.run("ann create"), "maintenance");
    assert_eq!(fresh.run("ann join"), "not_found");
    fresh.rules.maintenance = None;
    assert_eq!(fresh.run("ann create"), "updated joined:ann:host");
}

#[test]
fn a_message_is_edited_by_its_author_and_deleted_by_whoever_moderates() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player
         bob chat one -> message
         cat edit 5 two -> forbidden
         ann edit 5 two -> forbidden
         bob edit 5 -> bad_request
         bob edit 5 two -> edited
         bob edit 4 two -> not_found
         bob edit 99 two -> not_found
         cat delete 5 -> forbidden
         cat react 5 🎉 -> reacted
         cat react 5 -> bad_request
         dan edit 5 x -> not_member
         dan react 5 x -> not_member",
    );
    let body = |table: &Table, seq| {
        let event = table.state.event(Seq(seq)).unwrap();
        let Change::Message { body, .. } = &event.change else { panic!("{event:?}") };
        body.as_text().unwrap()
    };
    assert_eq!(body(&table, 5), "two");
    assert!(matches!(&table.state.view(&user("ann"), |_| false).messages[0].change,
        Change::Message { body, .. } if body.as_text().unwrap() == "two"));
    let table = check_at(
        table,
        "ann mute bob -> muted:bob
         bob edit 5 three -> muted
         ann delete 5 -> deleted
         ann unmute bob -> unmuted:bob
         bob edit 5 three -> not_found
         bob delete 5 -> not_found
         cat react 5 x -> not_found
         bob chat four -> message
         bob delete 11 -> deleted
         bot+moderator delete 11 -> not_found",
    );
    assert_eq!((body(&table, 5), body(&table, 11)), (String::new(), String::new()));
}

#[test]
fn a_message_that_is_not_in_memory_is_recalled() {
    let mut table = check(
        "ann create -> updated joined:ann:host
         ann chat one -> message",
    );
    for _ in 0..60 {
        table.run("ann chat more");
    }
    let later = table.now.after(Duration::from_secs(601));
    let limits = Arc::clone(&table.rules.limits);
    let message = Arc::clone(table.state.event(Seq(3)).unwrap());
    table.state.trim_recent(&limits, Seq(63), later);
    assert_eq!(table.run("ann edit 3 two"), "recall 3");
    let edit = LobbyCommand::Edit { seq: Seq(3), body: Body::text("two") };
    for (name, found, allowed) in
        [("ann", Some(&message), true), ("ann", None, false), ("bob", Some(&message), false)]
    {
        let caller = Caller {
            session: SessionId::new("x").unwrap(),
            user: user(name),
            name: name.to_owned(),
            roles: Vec::new(),
            system: false,
            expects: None,
        };
        let decided = table.state.decide_about(&caller, &edit, found, table.now, &table.rules);
        assert_eq!(decided.is_ok(), allowed, "{name} {found:?}");
    }
}

#[test]
fn each_class_of_message_goes_its_way() {
    check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         ann chat hi -> message
         ann game -> ordered to Everyone
         ann wink -> ephemeral to Everyone
         ann game others -> ordered to EveryoneBut(ann)
         bob game host -> ordered to Users([ann])
         bob wink cat -> ephemeral to Users([cat])
         bob typing -> ephemeral to EveryoneBut(bob)
         bob start -> forbidden
         ann leave -> left:ann host:bob
         bob game host -> ordered to Users([bob])",
    );
}

#[test]
fn a_nonce_counts_once_per_user_within_its_window() {
    let table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         ann chat hi #1 -> message
         ann chat hi #1 -> dup 4
         bob chat hi #1 -> message
         ann chat ho #2 -> message
         ann wait 299
         ann chat hi #1 -> dup 4
         ann chat ho #2 -> dup 6
         ann wait 1
         ann chat hi #1 -> message
         ann wait 299
         ann chat hi #1 -> dup 7",
    );
    // Memory of what was forgotten is given back as new ones come.
    let table = check_at(table, "ann wait 600\n ann chat x #3 -> message");
    assert_eq!(State::from_snapshot(&table.state.snapshot()).unwrap().snapshot(), table.state.snapshot());
    check_at(
        table,
        "ann leave #4 -> left:ann host:bob
         ann leave #4 -> dup 10
         bob close #5 -> closed
         bob close #5 -> dup 11",
    );
}
