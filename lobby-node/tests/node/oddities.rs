//! Commands that a careless client sends: each is answered for what it is, and nothing else suffers.

use mlms_protocol::command::{Moderate, Moderation};
use mlms_protocol::{Answer, Command, ErrorCode, LobbyCommand};
use tokio_tungstenite::tungstenite::Message;

use crate::fleet::{Fleet, Plan, user};
use crate::line::chat;
use crate::stories::{no_rates, owned_by};

#[tokio::test(start_paused = true)]
async fn a_nonce_of_another_command_is_a_conflict_and_nothing_happens() {
    let fleet = Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    // The same at the owner and over a link.
    for (number, name) in [(0, "bob"), (1, "cat")] {
        let mut guest = fleet.connect(number, name).await;
        guest.join(&lobby).await;
        let (said, ready, left) = (format!("{name}-said"), format!("{name}-ready"), format!("{name}-left"));
        let ask = |command| Command::Lobby(lobby.clone(), command);
        guest.ask(chat(&lobby, "hi"), Some(&said)).await.unwrap();
        guest.ask(ask(LobbyCommand::Ready { ready: true }), Some(&ready)).await.unwrap();
        let refused = guest.ask(ask(LobbyCommand::Ready { ready: false }), Some(&said)).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_ms), (ErrorCode::Conflict, None));
        let refused = guest.ask(ask(LobbyCommand::Leave), Some(&said)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        let refused = guest.ask(chat(&lobby, "hi"), Some(&ready)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        let again = guest.ask(chat(&lobby, "hi"), Some(&said)).await.unwrap();
        assert!(matches!(again, Answer::Sent { dup: true, .. }), "{again:?}");
        guest.ask(ask(LobbyCommand::Leave), Some(&left)).await.unwrap();
        let again = guest.ask(ask(LobbyCommand::Leave), Some(&left)).await.unwrap();
        assert_eq!(again, Answer::Done);
    }
    // A host's kick with a used nonce kicks nobody, and says so.
    let mut dan = fleet.connect(1, "dan").await;
    dan.join(&lobby).await;
    ann.ask(chat(&lobby, "hi"), Some("n")).await.unwrap();
    let kick = LobbyCommand::Moderate(Moderate {
        action: Moderation::Kick,
        user: user("dan"),
        for_s: None,
        reason: None,
    });
    let refused = ann.ask(Command::Lobby(lobby.clone(), kick), Some("n")).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    dan.chat(&lobby, "still here").await;
}

#[tokio::test(start_paused = true)]
async fn one_position_that_cannot_be_read_spoils_no_other_lobby_of_the_resume() {
    let fleet = Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    let joined = bob.join(&lobby).await;
    bob.close().await;
    ann.chat(&lobby, "missed").await;
    let mut bob = fleet.connect(1, "bob").await;
    let frame = format!(
        r#"{{"id":1,"op":"resume","lobbies":[{{"lobby":"a"}},{{"lobby":"{lobby}","epoch":{},"seq":{}}},
            {{"lobby":"b","epoch":-1,"seq":7}},{{"lobby":"c","epoch":1,"seq":"7"}}]}}"#,
        joined.epoch, joined.seq
    );
    bob.expect("resume", 1);
    assert!(bob.send_raw(Message::text(frame)).await);
    let Answer::Resumed(outcomes) = bob.reply(1).await.unwrap() else { panic!("no answer to a resume") };
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(joined) => (joined.lobby.to_string(), joined.missed.to_string()),
            Err((lobby, refusal)) => (lobby.to_string(), refusal.code.to_string()),
        })
        .collect();
    let refused = |name: &str| (name.to_owned(), "bad_request".to_owned());
    assert_eq!(told, [refused("a"), (lobby.to_string(), "1".to_owned()), refused("b"), refused("c")]);
}

#[tokio::test(start_paused = true)]
async fn a_frame_with_too_many_fields_is_a_bad_request_and_the_session_stays() {
    let fleet = Fleet::start(Plan::default()).await;
    let mut ann = fleet.connect(0, "ann").await;
    let fields: String = (0..1_000).map(|number| format!(r#","f{number}":{number}"#)).collect();
    ann.expect("ping", 1);
    assert!(ann.send_raw(Message::text(format!(r#"{{"id":1,"op":"ping"{fields}}}"#))).await);
    assert_eq!(ann.reply(1).await.unwrap_err().code, ErrorCode::BadRequest);
    ann.ask(Command::Ping, None).await.unwrap();
}
