//! What ends a connection, and what does not: slow readers, tokens, pings, floods, frames that are none.

use std::time::Duration;

use mlms_protocol::command::Join;
use mlms_protocol::lobby::Settings;
use mlms_protocol::{Answer, Class, Command, Encoding, ErrorCode, Event, Limits, LobbyCommand};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{fleet, no_rates, owned_by, text};
use crate::fleet::{Entrance, lobby, user};
use crate::line::{Line, chat, message};

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_lag_then_is_closed_and_the_lobby_goes_on() {
    let limits = Limits { outbox_bytes_max: 64 * 1024, ..no_rates() };
    let fleet = fleet(limits).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let entrance = Entrance { pipe_bytes: 4_096, ..Entrance::default() };
    let mut bob = fleet.connect_with(0, "bob", entrance).await;
    bob.join(&lobby).await;
    let long = "x".repeat(1_000);
    for _ in 0..100 {
        ann.ask(message(&lobby, "game", &long, Class::Ephemeral), None).await.unwrap();
    }
    let mut got = 0;
    let dropped = loop {
        match bob.event().await {
            Event::Lag { dropped, .. } => break dropped,
            event => got += u64::from(text(&event).is_some()),
        }
    };
    assert_eq!(got + dropped, 100, "each is delivered or counted");
    assert!(dropped >= 70, "a quarter of the outbox and the pipe hold less than thirty");
    // What may not be dropped ends it.
    for _ in 0..200 {
        ann.ask(message(&lobby, "game", &long, Class::Ordered), None).await.unwrap();
    }
    let mut bytes = 0;
    let mut bye = None;
    while let Some(event) = bob.try_event().await {
        bytes += event.encode(Encoding::Json).len();
        if let Event::Bye { code, .. } = event {
            bye = Some(code);
        }
    }
    assert_eq!((bye, bob.closed), (Some(4002), Some(4002)));
    assert!(bytes < 64 * 1024, "{bytes} bytes waited");
    assert_eq!(fleet.metric(0, "mlms_slow_consumers_total", None), 1.0);
    let away = ann.event_that(|event| matches!(event, Event::Away { .. })).await;
    assert!(matches!(away, Event::Away { user: who, .. } if who == user("bob")));
    ann.chat(&lobby, "still here").await;
    ann.event_that(|event| text(event).as_deref() == Some("still here")).await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_was_cut_is_finished_before_the_close() {
    // The pipe holds a part of the first frame only; what follows is too much.
    let limits = Limits { outbox_bytes_max: 4 * 1024, ..no_rates() };
    let fleet = fleet(limits).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    for size in [900, 1_400, 2_000, 3_000] {
        let entrance = Entrance { pipe_bytes: 1_024, ..Entrance::default() };
        let mut bob = fleet.connect_with(0, "bob", entrance).await;
        bob.join(&lobby).await;
        for _ in 0..12 {
            ann.ask(message(&lobby, "game", &"x".repeat(size), Class::Ordered), None).await.unwrap();
        }
        assert_eq!(bob.close_code().await, Some(4002), "frames of {size} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_expires_ends_the_session_unless_it_is_renewed() {
    let fleet = fleet(no_rates()).await;
    let start = Instant::now();
    let expires =
        || Entrance { token_expires_at: fleet.now().after(Duration::from_secs(30)), ..Entrance::default() };
    let ann = fleet.connect_with(0, "ann", expires()).await;
    let mut bob = fleet.connect_with(0, "bob", expires()).await;
    let token = |name: &str| {
        let minted = fleet.minter.mint(&user(name), None, &[], Duration::from_secs(100));
        Command::Auth { token: minted.token }
    };
    assert_eq!(bob.ask(token("ann"), None).await.unwrap_err().code, ErrorCode::Forbidden);
    let forged = Command::Auth { token: "e30.e30.e30".to_owned() };
    assert_eq!(bob.ask(forged, None).await.unwrap_err().code, ErrorCode::Unauthorized);
    assert!(matches!(bob.ask(token("bob"), None).await.unwrap(), Answer::Auth { .. }));
    let ended = async |mut line: Line| (line.close_code().await, start.elapsed().as_secs());
    let (ann, bob) = tokio::join!(ended(ann), ended(bob));
    assert!(ann.0 == Some(4005) && (29..=31).contains(&ann.1), "{ann:?}");
    assert!(bob.0 == Some(4005) && (95..=105).contains(&bob.1), "{bob:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_answer_pings_is_closed() {
    let fleet = fleet(no_rates()).await;
    let mut ann = fleet.connect(0, "ann").await;
    // Nobody reads, so nobody answers.
    while fleet.metric(0, "mlms_closes_total", Some("no_pong")) < 1.0 {
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(ann.close_code().await, Some(4003));
    // One that reads stays, however quiet it is.
    let mut bob = fleet.connect(0, "bob").await;
    bob.stay(Duration::from_secs(600)).await;
    assert!(matches!(bob.ask(Command::Ping, None).await, Ok(Answer::Pong { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_sixth_session_replaces_the_oldest_also_on_another_node() {
    let fleet = fleet(no_rates()).await;
    let mut lines = Vec::new();
    for number in 0..7 {
        lines.push(fleet.connect(number % 2, "ann").await);
        fleet.connect(number % 2, "bob").await;
    }
    for line in &mut lines[..2] {
        assert_eq!(line.close_code().await, Some(4506));
    }
    for line in &mut lines[2..] {
        assert!(matches!(line.ask(Command::Ping, None).await, Ok(Answer::Pong { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_ends_the_session() {
    let fleet = fleet(Limits::default()).await;
    let mut ann = fleet.connect(0, "ann").await;
    let mut limited = 0;
    for _ in 0..4_000 {
        let Some(id) = ann.send(Command::Ping, None).await else { break };
        match timeout(Duration::from_millis(1), ann.next()).await {
            Ok(Some(mlms_protocol::ServerFrame::Reply { id: of, outcome })) => {
                assert_eq!(of, id);
                limited += u32::from(outcome.is_err_and(|refusal| refusal.code == ErrorCode::RateLimited));
            }
            _ => break,
        }
    }
    assert!(limited > 1_000, "{limited}");
    assert_eq!(ann.close_code().await, Some(4008));
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_none_end_the_session_and_bad_fields_do_not() {
    let fleet = fleet(no_rates()).await;
    for bad in ["", "[]", "{}", "{\"op\":7}", "nonsense", "{\"op\":\"ping\"} x"] {
        let mut ann = fleet.connect(0, "ann").await;
        ann.send_raw(Message::text(bad)).await;
        assert_eq!(ann.close_code().await, Some(4501), "{bad}");
    }
    let mut ann = fleet.connect(0, "ann").await;
    ann.send_raw(Message::binary(&b"\x81\xa2op\xa4ping"[..])).await;
    assert_eq!(ann.close_code().await, Some(4501), "a frame of the other encoding");
    let mut ann = fleet.connect(0, "ann").await;
    ann.send_raw(Message::text(format!("{{\"op\":\"ping\",\"x\":\"{}\"}}", "y".repeat(70_000)))).await;
    assert_eq!(ann.close_code().await, Some(1009));
    let mut ann = fleet.connect(0, "ann").await;
    for (bad, code) in [
        ("{\"op\":\"leave\"}", ErrorCode::BadRequest),
        ("{\"op\":\"leave\",\"lobby\":\"no spaces\"}", ErrorCode::BadRequest),
        ("{\"op\":\"fly\",\"lobby\":\"x\"}", ErrorCode::UnknownOp),
        ("{\"op\":\"leave\",\"lobby\":\"nowhere\"}", ErrorCode::NotFound),
    ] {
        ann.send_raw(Message::text(bad)).await;
        let event = ann.event().await;
        assert!(matches!(event, Event::Error { code: of, .. } if of == code), "{bad}: {event:?}");
    }
    let lounge = lobby("lounge");
    ann.join(&lounge).await;
    let refusal = ann.ask(chat(&lounge, &"x".repeat(4_097)), None).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::TooLarge);
    ann.chat(&lounge, "as before").await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_chats_or_joins_ends_the_session_though_the_commands_refuse_it() {
    let fleet = fleet(Limits::default()).await;
    let den = lobby("den");
    for flood in [chat(&den, "spam"), Command::Lobby(den.clone(), LobbyCommand::Join(Join::default()))] {
        let mut ann = fleet.connect(0, "ann").await;
        ann.join_with(&den, Join { create: Some(Settings::default()), ..Join::default() }).await.unwrap();
        // Thirteen times the rate of chats and joins, and not three times that of commands.
        let mut sent = 0;
        while sent < 1_500 && ann.send(flood.clone(), None).await.is_some() {
            sent += 1;
            sleep(Duration::from_millis(7)).await;
        }
        assert_eq!(ann.close_code().await, Some(4008), "after {sent}");
    }
}
