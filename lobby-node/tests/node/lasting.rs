//! What outlasts the moment, over sockets: read marks, values that are retained, blocks, reports.

use std::time::Duration;

use mlms_protocol::command::{Join, Position, Recipients, ResumePoint, Send};
use mlms_protocol::event::ReadMark;
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Change, Class, Command, Encoding, ErrorCode, Event, Kind, LobbyCommand, LobbyEvent,
    LobbyId, Refusal, Seq, UserId,
};

use crate::fleet::{Entrance, Fleet, Plan, user};
use crate::line::{Line, message};
use crate::stories::{no_rates, owned_by, text};

async fn fleet(nodes: usize) -> std::sync::Arc<Fleet> {
    Fleet::start(Plan { nodes, limits: no_rates(), ..Plan::default() }).await
}

async fn read(line: &mut Line, lobby: &LobbyId, seq: Seq) -> ReadMark {
    match line.ask(Command::Lobby(lobby.clone(), LobbyCommand::Read { seq }), None).await.unwrap() {
        Answer::Read(mark) => mark,
        other => panic!("{other:?} is no answer to a read"),
    }
}

async fn keep(line: &mut Line, lobby: &LobbyId, key: &str, value: serde_json::Value) -> Seq {
    let send = Send {
        kind: Kind::new("game").unwrap(),
        body: Body::json(&value),
        class: Class::Durable,
        key: Some(key.to_owned()),
        to: Recipients::Everyone,
    };
    match line.ask(Command::Lobby(lobby.clone(), LobbyCommand::Send(send)), None).await.unwrap() {
        Answer::Sent { seq, .. } => seq,
        other => panic!("{other:?} is no answer to a send"),
    }
}

async fn blocks(line: &mut Line, command: Command) -> Vec<UserId> {
    match line.ask(command, None).await.unwrap() {
        Answer::Blocks { users } => users,
        other => panic!("{other:?} is no list of users"),
    }
}

/// Joins as soon as somebody owns the lobby again.
async fn join_at_last(line: &mut Line, lobby: &LobbyId) -> Joined {
    for _ in 0..20 {
        match line.join_with(lobby, Join::default()).await {
            Ok(joined) => return joined,
            Err(refusal) => line.stay(Duration::from_millis(refusal.retry_ms.expect("it helps"))).await,
        }
    }
    panic!("nobody takes the lobby over")
}

fn mark(read: Seq, unread: u32) -> ReadMark {
    ReadMark { read, unread }
}

fn said(events: &[LobbyEvent]) -> Vec<String> {
    let body = |event: &LobbyEvent| match &event.change {
        Change::Message { body, .. } | Change::Edited { body, .. } => body.as_text(),
        Change::Reacted { emoji, .. } => Some(emoji.clone()),
        _ => None,
    };
    events.iter().filter_map(body).collect()
}

fn retained(joined: &Joined) -> Vec<(Seq, Option<String>)> {
    let state = joined.state.as_ref().unwrap();
    let key = |event: &LobbyEvent| match &event.change {
        Change::Message { key, .. } => key.clone(),
        _ => None,
    };
    state.retained.iter().map(|event| (event.seq, key(event))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_read_mark_is_of_the_user_on_all_devices_and_nodes() {
    let fleet = fleet(2).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut phone = fleet.connect(1, "bob").await;
    let joined = phone.join(&lobby).await;
    assert_eq!(joined.mark, Some(mark(joined.seq, 0)));
    let entrance = Entrance { encoding: Encoding::Msgpack, ..Entrance::default() };
    let mut laptop = fleet.connect_with(0, "bob", entrance).await;
    laptop.join(&lobby).await;
    let first = ann.chat(&lobby, "one").await;
    let second = ann.chat(&lobby, "two").await;
    assert_eq!(read(&mut phone, &lobby, first).await, mark(first, 1));
    let told = laptop.event_that(|event| matches!(event, Event::Read { .. })).await;
    let expected = Event::Read { lobby: lobby.clone(), user: user("bob"), mark: mark(first, 1) };
    assert_eq!(told, expected);
    // It was there already: nobody hears of it again, and nobody else hears of it at all.
    assert_eq!(read(&mut laptop, &lobby, first).await, mark(first, 1));
    assert_eq!(read(&mut laptop, &lobby, Seq(1_000)).await, mark(second, 0));
    phone.event_that(|event| matches!(event, Event::Read { mark, .. } if mark.read == second)).await;
    let third = ann.chat(&lobby, "three").await;
    let heard = ann.event_that(|event| matches!(event, Event::Read { .. }) || text(event).is_some());
    assert_eq!(text(&heard.await).as_deref(), Some("one"));
    // A resume tells it, too.
    phone.close().await;
    laptop.close().await;
    let mut phone = fleet.connect(1, "bob").await;
    let point = ResumePoint::new(lobby.clone(), joined.epoch, joined.seq);
    let Answer::Resumed(outcomes) = phone.ask(Command::Resume(vec![point]), None).await.unwrap() else {
        panic!("no answer to a resume")
    };
    let resumed = outcomes[0].as_ref().unwrap();
    assert_eq!((resumed.missed, resumed.mark), (3, Some(mark(second, 1))));
    assert_eq!(read(&mut phone, &lobby, third).await, mark(third, 0));
    let mut eve = fleet.connect(1, "eve").await;
    let asked = eve.ask(Command::Lobby(lobby.clone(), LobbyCommand::Read { seq: third }), None).await;
    assert_eq!(asked.unwrap_err().code, ErrorCode::NotMember);
}

#[tokio::test(start_paused = true)]
async fn marks_and_values_survive_the_death_of_their_owner() {
    let fleet = fleet(3).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    let score = keep(&mut bob, &lobby, "score", serde_json::json!([1, 0])).await;
    let map = keep(&mut ann, &lobby, "map", serde_json::json!("ice")).await;
    let one = ann.chat(&lobby, "one").await;
    read(&mut bob, &lobby, one).await;
    // The mark goes along with it.
    ann.chat(&lobby, "two").await;
    let owner = fleet.owner(&lobby).unwrap();
    fleet.kill(owner);
    let mut cat = fleet.connect(2, "cat").await;
    let joined = join_at_last(&mut cat, &lobby).await;
    assert_eq!(retained(&joined), [(score, Some("score".to_owned())), (map, Some("map".to_owned()))]);
    assert!(joined.epoch.0 > 1, "another owner: {joined:?}");
    assert_eq!(bob.join(&lobby).await.mark, Some(mark(one, 1)));
    // Also where it is given over in peace, and nothing was said since.
    let seq = joined.seq;
    read(&mut bob, &lobby, seq).await;
    let heir = if fleet.owner(&lobby) == Some(1) { 2 } else { 1 };
    fleet.move_lobby(&lobby, heir).await;
    assert_eq!(bob.join(&lobby).await.mark, Some(mark(seq, 0)));
    keep(&mut cat, &lobby, "map", serde_json::Value::Null).await;
    assert_eq!(retained(&cat.join(&lobby).await), [(score, Some("score".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn the_words_of_a_blocked_user_do_not_reach_the_blocker_and_no_seq_is_missing() {
    let fleet = fleet(2).await;
    let (lobby, mut bob) = owned_by(&fleet, 0).await;
    // `owned_by` enters as ann: she is the one who is blocked.
    let mut here = fleet.connect(0, "cat").await;
    let entrance = Entrance { encoding: Encoding::Msgpack, ..Entrance::default() };
    let mut there = fleet.connect_with(1, "cat", entrance).await;
    let mut dan = fleet.connect(1, "dan").await;
    let joined = here.join(&lobby).await;
    there.join(&lobby).await;
    dan.join(&lobby).await;
    let before = bob.chat(&lobby, "before").await;
    for line in [&mut here, &mut there, &mut dan] {
        line.event_that(|event| text(event).as_deref() == Some("before")).await;
    }
    let list = blocks(&mut there, Command::Block { user: user("ann") }).await;
    assert_eq!(list, [user("ann")]);
    assert_eq!(blocks(&mut here, Command::Blocked).await, [user("ann")]);
    // The other node hears of it over a link.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let react = LobbyCommand::React { seq: before, emoji: "rude".to_owned() };
    let edit = LobbyCommand::Edit { seq: before, body: Body::text("worse") };
    bob.ask(Command::Lobby(lobby.clone(), LobbyCommand::Typing), None).await.unwrap();
    bob.ask(message(&lobby, "app.note", "passing", Class::Ordered), None).await.unwrap();
    bob.ask(message(&lobby, "game", "a move", Class::Ordered), None).await.unwrap();
    bob.chat(&lobby, "after").await;
    bob.ask(Command::Lobby(lobby.clone(), react), None).await.unwrap();
    bob.ask(Command::Lobby(lobby.clone(), edit), None).await.unwrap();
    let last = dan.chat(&lobby, "over").await;
    for (line, silent) in [(&mut here, true), (&mut there, true), (&mut dan, false)] {
        let mut heard = Vec::new();
        let mut seq = before;
        while seq < last {
            match line.event().await {
                Event::Lobby(event) => {
                    assert_eq!(event.seq, seq.next(), "no gap");
                    seq = event.seq;
                    heard.extend(said(std::slice::from_ref(&event)));
                }
                Event::Typing { .. } => heard.push("typing".to_owned()),
                event => heard.extend(text(&event)),
            }
        }
        let words = ["typing", "passing", "a move", "after", "rude", "worse", "over"];
        match silent {
            true => assert_eq!(heard, ["a move", "", "", "", "over"]),
            false => assert_eq!(heard, words),
        }
    }
    // Nor later: not in the history, not in a snapshot, not among what a resume brings.
    let told = ["", "", "", "", "over"];
    assert_eq!(said(&here.history(&lobby, joined.seq.0).await), told);
    assert_eq!(said(&there.join(&lobby).await.state.unwrap().messages), ["", "", "over"]);
    here.close().await;
    let mut here = fleet.connect(0, "cat").await;
    let again = here.join_since(&lobby, Position { epoch: joined.epoch, seq: joined.seq }).await;
    assert!(again.state.is_none());
    let mut missed = Vec::new();
    while missed.len() < usize::try_from(again.missed).unwrap() {
        if let Event::Lobby(event) = here.event().await {
            missed.push(event);
        }
    }
    assert_eq!(said(&missed), told);
    // Until she thinks better of it.
    assert!(blocks(&mut here, Command::Unblock { user: user("ann") }).await.is_empty());
    bob.chat(&lobby, "friends").await;
    here.event_that(|event| text(event).as_deref() == Some("friends")).await;
    assert_eq!(said(&here.history(&lobby, last.0).await), ["friends"]);
    let refused = here.ask(Command::Block { user: user("cat") }, None).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::BadRequest);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_kept_with_what_was_said_around_it_also_of_an_old_message() {
    let fleet = fleet(2).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    ann.chat(&lobby, "hi").await;
    let rude = ann.chat(&lobby, "you fool").await;
    bob.chat(&lobby, "oh").await;
    let report = |seq| LobbyCommand::ReportMessage { seq, reason: Some("rude".to_owned()) };
    let ask = |seq| Command::Lobby(lobby.clone(), report(seq));
    assert_eq!(bob.ask(ask(rude), None).await, Ok(Answer::Done));
    assert_eq!(bob.ask(ask(rude), None).await, Ok(Answer::Done), "once more is once");
    for number in 0..1_100 {
        ann.chat(&lobby, &format!("{number}")).await;
    }
    // Out of memory by now, and out of the database again.
    ann.close().await;
    bob.stay(Duration::from_secs(700)).await;
    let Err(Refusal { code, .. }) = bob.ask(ask(Seq(1)), None).await else { panic!("that is no message") };
    assert_eq!(code, ErrorCode::NotFound);
    assert_eq!(bob.ask(ask(Seq(rude.0 - 1)), None).await, Ok(Answer::Done));
    let reports = fleet.store.reports(None, 10).await.unwrap();
    assert_eq!(reports.len(), 2);
    let [old, new] = &reports[..] else { unreachable!() };
    assert_eq!((old.seq, new.seq, new.message["body"].as_str()), (Seq(rude.0 - 1), rude, Some("you fool")));
    assert_eq!((new.user.clone(), new.by.clone()), (Some(user("ann")), user("bob")));
    assert_eq!(new.context.as_array().unwrap().len(), 2);
}
