//! Passwords, invites, edits, and commands by REST: what takes another road than a plain command.

use mlms_protocol::command::{Invite, Join, Lock, Update};
use mlms_protocol::lobby::Settings;
use mlms_protocol::{Answer, Body, Change, Command, ErrorCode, Event, LobbyCommand, Seq};

use crate::fleet::{Fleet, Plan, lobby};
use crate::stories::{no_rates, owned_by};

async fn fleet() -> std::sync::Arc<Fleet> {
    Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await
}

fn with_password(password: &str) -> Join {
    Join { password: Some(password.to_owned()), ..Join::default() }
}

#[tokio::test(start_paused = true)]
async fn a_password_is_asked_for_on_every_node_and_guessing_has_an_end() {
    let fleet = fleet().await;
    let lounge = lobby("lounge");
    let mut ann = fleet.connect(0, "ann").await;
    let lock = Some(Lock::Password("sesame".to_owned()));
    let joined = ann
        .join_with(&lounge, Join { create: Some(Settings::default()), lock, ..Join::default() })
        .await
        .unwrap();
    assert!(joined.state.unwrap().settings.locked);
    for (number, name) in [(0, "bob"), (1, "cat")] {
        let mut line = fleet.connect(number, name).await;
        let refusal = line.join_with(&lounge, Join::default()).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::WrongPassword);
        for _ in 0..5 {
            let refusal = line.join_with(&lounge, with_password("open")).await.unwrap_err();
            assert_eq!((refusal.code, refusal.retry_ms), (ErrorCode::WrongPassword, None));
        }
        let refusal = line.join_with(&lounge, with_password("sesame")).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert!(refusal.retry_ms.is_some());
    }
    let mut dan = fleet.connect(1, "dan").await;
    dan.join_with(&lounge, with_password("sesame")).await.unwrap();
    let unlock = LobbyCommand::Update(Update { lock: Some(Lock::Remove), ..Update::default() });
    ann.ask(Command::Lobby(lounge.clone(), unlock), None).await.unwrap();
    let mut bob = fleet.connect(0, "bob").await;
    bob.join_with(&lounge, Join::default()).await.unwrap();
    // Nobody is told more of the password than that there is one.
    for event in bob.history(&lounge, 0).await {
        let text = String::from_utf8(Event::Lobby(event).encode(mlms_protocol::Encoding::Json)).unwrap();
        assert!(!text.contains("argon") && !text.contains("sesame"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_invite_works_once_and_its_repeat_is_the_same_invite() {
    let fleet = fleet().await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let settings = serde_json::json!({"visibility": "private"});
    let hide = LobbyCommand::Update(Update { settings: settings.as_object().cloned(), ..Update::default() });
    ann.ask(Command::Lobby(lobby.clone(), hide), None).await.unwrap();
    let invite = || LobbyCommand::Invite(Invite { uses: Some(1), ..Invite::default() });
    let first = ann.ask(Command::Lobby(lobby.clone(), invite()), Some("i")).await.unwrap();
    assert_eq!(ann.ask(Command::Lobby(lobby.clone(), invite()), Some("i")).await.unwrap(), first);
    let Answer::Invited { invite: secret, .. } = first else { panic!("{first:?}") };
    let join = || Join { invite: Some(secret.clone()), ..Join::default() };
    let mut bob = fleet.connect(1, "bob").await;
    let refusal = bob.join_with(&lobby, Join::default()).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NotFound);
    bob.join_with(&lobby, join()).await.unwrap();
    let mut cat = fleet.connect(1, "cat").await;
    assert_eq!(cat.join_with(&lobby, join()).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn history_tells_what_a_message_says_now_from_memory_and_from_the_database() {
    let limits = mlms_protocol::Limits { resume_events_max: 5, ..no_rates() };
    let fleet = Fleet::start(Plan { limits, ..Plan::default() }).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    let (one, two) = (ann.chat(&lobby, "one").await, bob.chat(&lobby, "two").await);
    let edit = |seq, text: &str| LobbyCommand::Edit { seq, body: Body::text(text) };
    ann.ask(Command::Lobby(lobby.clone(), edit(one, "uno")), None).await.unwrap();
    let texts = |events: &[mlms_protocol::LobbyEvent]| -> Vec<(Seq, String)> {
        let text = |event: &mlms_protocol::LobbyEvent| match &event.change {
            Change::Message { body, .. } => Some((event.seq, body.as_text().unwrap())),
            _ => None,
        };
        events.iter().filter_map(text).collect()
    };
    assert_eq!(texts(&bob.history(&lobby, 0).await)[0], (one, "uno".to_owned()));
    for number in 0..60 {
        ann.chat(&lobby, &number.to_string()).await;
    }
    // Long enough that all is in the database, and memory has let go of it.
    ann.stay(std::time::Duration::from_secs(5)).await;
    let again = texts(&bob.history(&lobby, 0).await);
    assert_eq!(again[..2], [(one, "uno".to_owned()), (two, "two".to_owned())]);
    let refusal = ann.ask(Command::Lobby(lobby.clone(), edit(two, "mine")), None).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Forbidden);
    ann.ask(Command::Lobby(lobby.clone(), LobbyCommand::Delete { seq: two }), None).await.unwrap();
    ann.ask(Command::Lobby(lobby.clone(), edit(one, "un")), None).await.unwrap();
    let refusal = bob.ask(Command::Lobby(lobby.clone(), edit(two, "back")), None).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::NotFound);
    let expected = [(one, "un".to_owned()), (two, String::new())];
    assert_eq!(texts(&bob.history(&lobby, 0).await)[..2], expected);
    ann.stay(std::time::Duration::from_secs(5)).await;
    assert_eq!(texts(&bob.history(&lobby, 0).await)[..2], expected);
}
