//! Moderation over sockets: what it means on every node that has sessions of the user.

use std::time::Duration;

use mlms_protocol::command::{Join, Moderate, Moderation, ResumePoint};
use mlms_protocol::lobby::Settings;
use mlms_protocol::{
    Answer, Change, Class, Command, Encoding, ErrorCode, Event, Limits, LobbyCommand, LobbyId, MemberRole,
    Refusal, Seq, ServerFrame,
};

use crate::fleet::{Entrance, Fleet, Plan, user};
use crate::line::{Line, chat, message};
use crate::stories::{no_rates, owned_by, text};

async fn fleet(limits: Limits) -> std::sync::Arc<Fleet> {
    Fleet::start(Plan { limits, ..Plan::default() }).await
}

async fn moderate(line: &mut Line, lobby: &LobbyId, action: Moderation, whom: &str) -> Result<Seq, Refusal> {
    let moderate = Moderate { action, user: user(whom), for_s: None, reason: None };
    let command = Command::Lobby(lobby.clone(), LobbyCommand::Moderate(moderate));
    match line.ask(command, None).await? {
        Answer::Changed { seq, .. } => Ok(seq),
        other => panic!("{other:?} is no answer to a moderation"),
    }
}

fn seq_of(event: &Event) -> Option<Seq> {
    match event {
        Event::Lobby(event) => Some(event.seq),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_kick_nothing_more_comes_on_any_node_in_either_encoding() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bobs = Vec::new();
    for (number, encoding) in [(0, Encoding::Json), (1, Encoding::Msgpack), (1, Encoding::Json)] {
        let entrance = Entrance { encoding, ..Entrance::default() };
        let mut bob = fleet.connect_with(number, "bob", entrance).await;
        bob.join(&lobby).await;
        bobs.push(bob);
    }
    let mut cat = fleet.connect(1, "cat").await;
    cat.join(&lobby).await;
    let kicked = moderate(&mut ann, &lobby, Moderation::Kick, "bob").await.unwrap();
    for (line, name) in [(&mut ann, "from ann"), (&mut cat, "from cat")] {
        line.ask(message(&lobby, "game", name, Class::Ordered), None).await.unwrap();
        line.ask(message(&lobby, "game", name, Class::Ephemeral), None).await.unwrap();
        line.chat(&lobby, name).await;
    }
    cat.event_that(|event| matches!(event, Event::Lobby(event) if event.seq > kicked)).await;
    for bob in &mut bobs {
        let refusal = bob.ask(chat(&lobby, "hello?"), None).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::NotMember);
        // Every event up to the reply is here by now.
        let own = bob.event_that(|event| seq_of(event) == Some(kicked)).await;
        assert!(matches!(own, Event::Lobby(event) if matches!(event.change, Change::Kicked { .. })));
    }
    for bob in &mut bobs {
        assert!(bob.join_with(&lobby, Join::default()).await.is_ok(), "a kick is no ban");
        let back = bob.chat(&lobby, "back").await;
        let next = bob.event_that(|event| text(event).is_some() || seq_of(event).is_some()).await;
        assert_eq!(seq_of(&next), Some(back), "{next:?} came in between");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_does_not_undo_a_kick() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    let joined = bob.join(&lobby).await;
    bob.close().await;
    moderate(&mut ann, &lobby, Moderation::Kick, "bob").await.unwrap();
    let mut bob = fleet.connect(1, "bob").await;
    let point = ResumePoint::new(lobby.clone(), joined.epoch, joined.seq);
    let answer = bob.ask(Command::Resume(vec![point.clone()]), None).await.unwrap();
    let Answer::Resumed(outcomes) = answer else { panic!("{answer:?}") };
    assert!(matches!(&outcomes[..], [Err((_, refusal))] if refusal.code == ErrorCode::NotMember));
    bob.join(&lobby).await;
    moderate(&mut ann, &lobby, Moderation::Ban, "bob").await.unwrap();
    let answer = bob.ask(Command::Resume(vec![point]), None).await.unwrap();
    let Answer::Resumed(outcomes) = answer else { panic!("{answer:?}") };
    assert!(matches!(&outcomes[..], [Err((_, refusal))] if refusal.code == ErrorCode::Banned));
}

#[tokio::test(start_paused = true)]
async fn who_is_kicked_while_catching_up_gets_everything_up_to_the_kick_and_no_more() {
    let limits = Limits { outbox_bytes_max: 32 * 1024, ..no_rates() };
    let fleet = fleet(limits).await;
    for number in [0, 1] {
        let (lobby, mut ann) = owned_by(&fleet, 0).await;
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join(&lobby).await;
        bob.close().await;
        // More than the pipe and a page take.
        let long = "x".repeat(2_000);
        for _ in 0..200 {
            ann.chat(&lobby, &long).await;
        }
        let entrance = Entrance { pipe_bytes: 4_096, ..Entrance::default() };
        let mut bob = fleet.connect_with(number, "bob", entrance).await;
        let since = mlms_protocol::command::Position { epoch: joined.epoch, seq: joined.seq };
        let again = bob.join_since(&lobby, since).await;
        assert_eq!(again.missed, 200);
        let kicked = moderate(&mut ann, &lobby, Moderation::Kick, "bob").await.unwrap();
        ann.chat(&lobby, "he is gone").await;
        let mut seq = joined.seq;
        let last = loop {
            let event = bob.event_that(|event| seq_of(event).is_some()).await;
            let Event::Lobby(event) = event else { unreachable!() };
            assert_eq!(event.seq, seq.next(), "no gap");
            seq = event.seq;
            if !matches!(event.change, Change::Message { .. }) {
                break event;
            }
        };
        assert_eq!(last.seq, kicked);
        assert!(matches!(last.change, Change::Kicked { .. }));
        let refusal = bob.ask(chat(&lobby, "hello?"), None).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::NotMember);
        let joined = bob.join(&lobby).await;
        assert!(joined.seq > kicked);
        let next = bob.event_that(|event| seq_of(event).is_some());
        ann.chat(&lobby, "welcome back").await;
        assert_eq!(text(&next.await).as_deref(), Some("welcome back"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_game_is_seen_alike_on_every_node() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    let ask = |command| Command::Lobby(lobby.clone(), command);
    bob.ask(ask(LobbyCommand::Ready { ready: true }), None).await.unwrap();
    let started = ann.ask(ask(LobbyCommand::Start), Some("s")).await.unwrap();
    assert!(matches!(started, Answer::Changed { game: Some(1), .. }), "{started:?}");
    assert_eq!(ann.ask(ask(LobbyCommand::Start), Some("s")).await.unwrap(), started, "once");
    let refusal = bob.ask(ask(LobbyCommand::Finish { results: None }), None).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Forbidden);
    let state = bob.join(&lobby).await.state.unwrap();
    assert_eq!((state.game, state.members[0].ready), (Some(1), true));
    moderate(&mut ann, &lobby, Moderation::Role(MemberRole::Spectator), "bob").await.unwrap();
    ann.ask(ask(LobbyCommand::Finish { results: None }), None).await.unwrap();
    let finished = bob
        .event_that(|event| matches!(event, Event::Lobby(event) if event.change.name() == "game_finished"))
        .await;
    let Event::Lobby(finished) = finished else { unreachable!() };
    assert!(
        matches!(finished.change, Change::GameFinished { game: 1, players, .. } if players == [user("ann")])
    );
}

/// A join that waits for its turn behind a resume is not carried out a second time.
#[tokio::test(start_paused = true)]
async fn a_join_beside_a_resume_undoes_neither_a_leave_nor_a_kick() {
    let fleet = fleet(no_rates()).await;
    for (number, is_kicked) in [(0, false), (1, false), (0, true), (1, true)] {
        let (lobby, mut ann) = owned_by(&fleet, 0).await;
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join(&lobby).await;
        drop(bob);
        for round in 0..40 {
            ann.chat(&lobby, &format!("missed {round}")).await;
        }
        let mut bob = fleet.connect(number, "bob").await;
        let point = ResumePoint::new(lobby.clone(), joined.epoch, joined.seq);
        let other = ResumePoint { lobby: crate::fleet::lobby("never-made"), ..point.clone() };
        let mut asked = vec![bob.send(Command::Resume(vec![point, other]), None).await.unwrap()];
        let join = LobbyCommand::Join(Join { create: Some(Settings::default()), ..Join::default() });
        asked.push(bob.send(Command::Lobby(lobby.clone(), join), None).await.unwrap());
        if is_kicked {
            // What bob says behind the join: the owner has decided both.
            asked.push(bob.send(chat(&lobby, "mark"), None).await.unwrap());
            ann.event_that(|event| text(event).as_deref() == Some("mark")).await;
            moderate(&mut ann, &lobby, Moderation::Kick, "bob").await.unwrap();
        } else {
            asked.push(bob.send(Command::Lobby(lobby.clone(), LobbyCommand::Leave), None).await.unwrap());
        }
        while !asked.is_empty() {
            if let ServerFrame::Reply { id, .. } = bob.next().await.unwrap() {
                asked.retain(|open| *open != id);
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let is_end = |event: &Event| matches!(event, Event::Lobby(event) if matches!(event.change, Change::Left { .. } | Change::Kicked { .. }));
        ann.event_that(is_end).await;
        ann.chat(&lobby, "without bob").await;
        let next = ann.event_that(|event| matches!(event, Event::Lobby(_))).await;
        assert_eq!(text(&next).as_deref(), Some("without bob"), "nobody joined again: {next:?}");
        ann.close().await;
    }
}
