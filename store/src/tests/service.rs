//! Bans from the service, the audit, events by topic, and forgetting a player.

use std::time::Duration;

use mlms_protocol::{Body, Change, LobbyEvent, Millis, Seq, UserId};

use super::{event, lobby, said, user};
use crate::{AuditEntry, BanList, MessageReport, Range, ServiceBan, Store, Topic};

fn ban(id: &str, at: u64, until: Option<u64>) -> ServiceBan {
    let reason = until.map(|_| "späm 🦀".to_owned());
    ServiceBan { user: user(id), at: Millis(at), until: until.map(Millis), by: user("guard"), reason }
}

pub(super) async fn a_ban_is_kept_replaced_and_lifted(store: &Store) {
    let list = BanList::default();
    let empty = store.bans_mark().await.unwrap();
    store.set_ban(&ban("bob", 10, None)).await.unwrap();
    store.set_ban(&ban("ann", 11, Some(50))).await.unwrap();
    assert_eq!(store.ban(&user("ann")).await.unwrap(), Some(ban("ann", 11, Some(50))));
    assert_eq!(store.ban(&user("Ann")).await.unwrap(), None);
    assert_ne!(store.bans_mark().await.unwrap(), empty);
    assert_eq!(store.bans(None, 1).await.unwrap(), [ban("ann", 11, Some(50))]);
    assert_eq!(store.bans(Some(&user("ann")), 9).await.unwrap(), [ban("bob", 10, None)]);
    list.read(store).await.unwrap();
    let holds = |id: &str, now| list.holds(&user(id), Millis(now));
    assert_eq!(
        [holds("ann", 49), holds("ann", 50), holds("bob", 50), holds("eve", 0)],
        [true, false, true, false]
    );

    store.set_ban(&ban("bob", 12, Some(60))).await.unwrap();
    store.set_ban(&ban("ann", 12, None)).await.unwrap();
    assert_eq!(store.bans(None, 9).await.unwrap(), [ban("ann", 12, None), ban("bob", 12, Some(60))]);
    assert!(store.lift_ban(&user("ann")).await.unwrap());
    assert!(!store.lift_ban(&user("ann")).await.unwrap());
    let mut changes = list.watch();
    let follow = async {
        tokio::select! {
            () = list.follow(store) => {}
            changed = changes.changed() => changed.unwrap(),
        }
    };
    tokio::time::timeout(Duration::from_secs(30), follow).await.expect("a change is seen");
    assert!(!list.holds(&user("ann"), Millis(13)));
}

pub(super) async fn the_audit_is_read_from_its_end(store: &Store) {
    let entry = |number: u64, of: &str| AuditEntry {
        id: format!("{number:032x}"),
        at: Millis(number),
        by: user("guard"),
        action: "ban".to_owned(),
        user: user(of),
        detail: (number == 2).then(|| "why".to_owned()),
    };
    let (first, second, third) = (entry(1, "ann"), entry(2, "bob"), entry(3, "ann"));
    for entry in [&first, &second, &third] {
        store.add_audit(entry).await.unwrap();
    }
    let read = async |of: Option<&UserId>, before: Option<&str>, limit| {
        store.audit(of, before, limit).await.unwrap()
    };
    assert_eq!(read(None, None, 2).await, [third.clone(), second.clone()]);
    assert_eq!(read(None, Some(&second.id), 2).await, std::slice::from_ref(&first));
    assert_eq!(read(Some(&user("ann")), None, 9).await, [third, first]);
}

pub(super) async fn events_are_found_by_what_they_are_about(store: &Store) {
    let finished = |game| Change::GameFinished { game, by: None, players: vec![user("ann")], results: None };
    let kicked = || Change::Kicked { user: user("bob"), by: Some(user("ann")), reason: None };
    let events = [finished(1), said("ann", Body::text("gg")), kicked(), finished(2)];
    let events: Vec<_> = (1..).zip(events).map(|(seq, change)| event("den", 1, seq, change)).collect();
    store.save_events(&events).await.unwrap();
    let seqs = async |topic, before: u64| {
        let events = store.events_about(&lobby("den"), topic, Seq(before), 9).await.unwrap();
        events.iter().map(|event| event.seq.0).collect::<Vec<_>>()
    };
    assert_eq!(seqs(Topic::Results, u64::MAX).await, [4, 1]);
    assert_eq!(seqs(Topic::Results, 4).await, [1]);
    assert_eq!(seqs(Topic::Moderation, u64::MAX).await, [3]);
}

pub(super) async fn a_forgotten_player_is_in_nothing_and_no_seq_is_missing(store: &Store) {
    let events = [
        said("bob", Body::text("my secret")),
        said("ann", Body::text("hm")),
        said("bob", Body::text("bye")),
        Change::GameFinished { game: 1, by: None, players: vec![user("ann"), user("bob")], results: None },
        said("ann", Body::text("bob")),
    ];
    let events: Vec<_> = (1..).zip(events).map(|(seq, change)| event("den", 1, seq, change)).collect();
    store.save_events(&events).await.unwrap();
    let (ann, bob, alias) = (user("ann"), user("bob"), user("erased-1"));
    store.block(&ann, &bob, Millis(1)).await.unwrap();
    store.block(&bob, &ann, Millis(1)).await.unwrap();
    let report = |message: &LobbyEvent, context: &LobbyEvent| MessageReport {
        by: user("cat"),
        at: Millis(9),
        reason: None,
        message: message.clone(),
        context: vec![context.clone()],
    };
    store.file_report(&report(&events[0], &events[1])).await.unwrap();
    store.file_report(&report(&events[1], &events[2])).await.unwrap();
    store.set_ban(&ban("bob", 99, Some(100))).await.unwrap();
    let noted = AuditEntry {
        id: format!("{:032x}", 77),
        at: Millis(77),
        by: bob.clone(),
        action: "disconnect".to_owned(),
        user: bob.clone(),
        detail: Some("where he lives".to_owned()),
    };
    store.add_audit(&noted).await.unwrap();
    assert_eq!(
        store.forget(&bob, &alias, 1).await.unwrap(),
        3,
        "what happened in a lobby is done as a whole"
    );
    assert_eq!(store.forget(&bob, &alias, 9).await.unwrap(), 0);
    assert!(store.blocked_by(&ann, 9).await.unwrap().is_empty());
    assert!(store.blocked_by(&bob, 9).await.unwrap().is_empty());
    let reports = store.reports(None, 9).await.unwrap();
    assert_eq!((reports.len(), &reports[0].context), (1, &serde_json::json!([])), "{reports:?}");
    assert_eq!(store.ban(&bob).await.unwrap().unwrap().reason, None, "it stays out");
    assert!(store.audit(Some(&bob), None, 9).await.unwrap().is_empty());
    let audit = store.audit(Some(&alias), None, 9).await.unwrap();
    assert_eq!((&audit[0].by, &audit[0].detail), (&alias, &None), "the newest");
    let history = store.history(&lobby("den"), Range::After(Seq(0)), Seq(0), 9).await.unwrap();
    assert_eq!(history.len(), 5);
    assert!(!format!("{history:?}").contains("secret"), "{history:?}");
    let Change::GameFinished { players, .. } = &history[3].change else { panic!("{history:?}") };
    assert_eq!(players, &[ann, alias.clone()]);
    assert_eq!(history[4].change, events[4].change, "a word that somebody else said");
    let from: Vec<_> = history
        .iter()
        .take(3)
        .map(|event| match &event.change {
            Change::Message { from, .. } => from.as_ref().map(ToString::to_string).unwrap_or_default(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(from, ["erased-1", "ann", "erased-1"]);
}
