//! Messages: to everyone and to some, in both encodings, and the answer to a repeated command.

use mlms_protocol::command::{Position, Recipients, Send};
use mlms_protocol::{
    Answer, Body, Class, Command, Encoding, Epoch, Event, JoinStatus, Kind, LobbyCommand, Seq,
};

use super::{fleet, no_rates, owned_by, text};
use crate::fleet::{Entrance, user};

#[tokio::test(start_paused = true)]
async fn a_message_reaches_everyone_in_both_encodings_wherever_they_are() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut others = Vec::new();
    for (number, encoding) in [(0, Encoding::Msgpack), (1, Encoding::Json), (1, Encoding::Msgpack)] {
        let entrance = Entrance { encoding, ..Entrance::default() };
        let name = format!("player-{}", others.len());
        let mut line = fleet.connect_with(number, &name, entrance).await;
        line.join(&lobby).await;
        others.push(line);
    }
    let seq = ann.chat(&lobby, "hello").await;
    for line in &mut others {
        let event = line.event_that(|event| text(event).is_some()).await;
        assert_eq!(text(&event).as_deref(), Some("hello"));
        assert!(matches!(event, Event::Lobby(event) if event.seq == seq));
    }
}

#[tokio::test(start_paused = true)]
async fn recipients_are_named_and_nobody_else_hears() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let (mut bob, mut cat) = (fleet.connect(0, "bob").await, fleet.connect(1, "cat").await);
    bob.join(&lobby).await;
    cat.join(&lobby).await;
    let to = |name: &str, to: Recipients| {
        let (kind, body) = (Kind::new("game").unwrap(), Body::text(name));
        let send = Send { kind, body, class: Class::Ordered, key: None, to };
        Command::Lobby(lobby.clone(), LobbyCommand::Send(send))
    };
    for (name, recipients) in [
        ("host", Recipients::Host),
        ("others", Recipients::Others),
        ("cat", Recipients::Users(vec![user("cat"), user("nobody")])),
        ("everyone", Recipients::Everyone),
    ] {
        bob.ask(to(name, recipients), None).await.unwrap();
    }
    for (line, expected) in [
        (&mut ann, vec!["host", "others", "everyone"]),
        (&mut bob, vec!["everyone"]),
        (&mut cat, vec!["others", "cat", "everyone"]),
    ] {
        let mut heard = Vec::new();
        while heard.last().map(String::as_str) != Some("everyone") {
            heard.extend(text(&line.event().await));
        }
        assert_eq!(heard, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_gets_the_first_answer_for_every_command_that_changes() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    let leave = Command::Lobby(lobby.clone(), LobbyCommand::Leave);
    for _ in 0..2 {
        assert_eq!(bob.ask(leave.clone(), Some("leave")).await, Ok(Answer::Done));
    }
    let close = Command::Lobby(lobby.clone(), LobbyCommand::Close);
    let first = ann.ask(close.clone(), Some("close")).await.unwrap();
    assert_eq!(ann.ask(close, Some("close")).await, Ok(first));
}

#[tokio::test(start_paused = true)]
async fn a_seq_out_of_this_world_has_nothing_behind_it() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    for after in [u64::MAX, u64::MAX - 1] {
        assert!(ann.history(&lobby, after).await.is_empty());
    }
    let since = Position { epoch: Epoch(u64::MAX), seq: Seq(u64::MAX) };
    assert_eq!(ann.join_since(&lobby, since).await.status, JoinStatus::Snapshot);
    ann.chat(&lobby, "as before").await;
}
