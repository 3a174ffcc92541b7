//! Stories of a few players each.

use std::collections::HashSet;
use std::time::Duration;

use mlms_protocol::command::{Join, Position, Recipients, ResumePoint, Send};
use mlms_protocol::lobby::Settings;
use mlms_protocol::{
    Answer, Body, Change, Class, Command, Encoding, Epoch, ErrorCode, Event, JoinStatus, Kind, Limits,
    LobbyCommand, LobbyId, Seq, ServerFrame,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::fleet::{Entrance, Fleet, Plan, lobby, user};
use crate::line::{Line, chat, message};

/// Limits that get in nobody's way.
pub(crate) fn no_rates() -> Limits {
    Limits { commands_per_s: 0, chats_per_s: 0, joins_per_s: 0, creates_per_minute: 0, ..Limits::default() }
}

async fn fleet(limits: Limits) -> std::sync::Arc<Fleet> {
    Fleet::start(Plan { limits, ..Plan::default() }).await
}

pub(crate) fn text(event: &Event) -> Option<String> {
    match event {
        Event::Message(message) => message.body.as_text(),
        Event::Lobby(event) => match &event.change {
            Change::Message { body, .. } => body.as_text(),
            _ => None,
        },
        _ => None,
    }
}

/// A lobby that the node owns, because ann enters it there first.
pub(crate) async fn owned_by(fleet: &Fleet, number: usize) -> (LobbyId, Line) {
    for _ in 0..100 {
        let lobby = lobby(&format!("lobby-{}", fleet.unique()));
        let mut ann = fleet.connect(number, "ann").await;
        ann.join(&lobby).await;
        if fleet.owner(&lobby) == Some(number) {
            return (lobby, ann);
        }
        ann.close().await;
    }
    panic!("node {number} owns nothing");
}

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
async fn a_lobby_named_at_connect_is_created_and_joined() {
    let fleet = fleet(no_rates()).await;
    let lounge = lobby("lounge");
    for (number, total) in [(0, 1), (1, 2)] {
        let entrance = Entrance { lobby: Some(lounge.clone()), ..Entrance::default() };
        let mut line = fleet.connect_with(number, &format!("player-{number}"), entrance).await;
        let Event::Snapshot { state, .. } = line.event_that(|event| !matches!(event, Event::Lobby(_))).await
        else {
            panic!("no snapshot")
        };
        assert_eq!(state.members_total, total);
        // The first one stays for the second.
        tokio::spawn(async move { line.close_code().await });
    }
}

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
async fn a_lost_member_is_away_comes_back_and_leaves_after_the_grace() {
    let fleet = fleet(no_rates()).await;
    for number in [0, 1] {
        let (lobby, mut ann) = owned_by(&fleet, 0).await;
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join(&lobby).await;
        drop(bob);
        let unsequenced = |event: &Event| matches!(event, Event::Away { .. } | Event::Back { .. });
        assert!(matches!(ann.event_that(unsequenced).await, Event::Away { .. }));
        ann.stay(Duration::from_secs(59)).await;
        let mut bob = fleet.connect(number, "bob").await;
        let position = Position { epoch: joined.epoch, seq: joined.seq };
        assert_eq!(bob.join_since(&lobby, position).await.status, JoinStatus::Resumed);
        assert!(matches!(ann.event().await, Event::Back { .. }));
        let lost = Instant::now();
        drop(bob);
        assert!(matches!(ann.event().await, Event::Away { .. }));
        let Event::Lobby(left) = ann.event().await else { panic!("no `left`") };
        assert_eq!(left.change, Change::Left { user: user("bob"), reason: Some("timeout".to_owned()) });
        let grace = lost.elapsed();
        assert!((60..=62).contains(&grace.as_secs()), "{grace:?}");
        // Coming back later is a join.
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join_since(&lobby, position).await;
        assert_eq!((joined.status, joined.missed), (JoinStatus::Resumed, 2));
        ann.event_that(|event| matches!(event, Event::Lobby(event) if event.change.name() == "joined")).await;
        ann.leave(&lobby).await;
        ann.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_sessions_of_a_user_are_one_member() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let (mut phone, mut desk) = (fleet.connect(0, "bob").await, fleet.connect(1, "bob").await);
    phone.join(&lobby).await;
    assert_eq!(desk.join(&lobby).await.state.unwrap().members_total, 2);
    phone.leave(&lobby).await;
    desk.chat(&lobby, "I am still here").await;
    ann.chat(&lobby, "so you are").await;
    drop(phone);
    drop(desk);
    let mut names = Vec::new();
    while names.last() != Some(&"left") {
        names.push(match ann.event().await {
            Event::Lobby(event) => event.change.name(),
            Event::Away { .. } => "away",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(names, ["updated", "joined", "joined", "message", "message", "away", "left"][2..]);
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
async fn an_empty_lobby_leaves_memory_and_comes_back_with_its_history() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    for number in 0..300 {
        ann.chat(&lobby, &format!("chat {number}")).await;
    }
    ann.leave(&lobby).await;
    ann.stay(Duration::from_secs(2)).await;
    assert_eq!(fleet.metric(0, "mlms_lobbies", None), 1.0);
    ann.stay(Duration::from_secs(70)).await;
    assert_eq!(fleet.metric(0, "mlms_lobbies", None), 0.0);
    let mut bob = fleet.connect(1, "bob").await;
    let joined = bob.join_with(&lobby, Join::default()).await.unwrap();
    assert_eq!(
        joined.seq,
        Seq(305),
        "`updated`, `joined`, 300 chats, `left`, `host_changed`, and now `joined`"
    );
    let state = joined.state.unwrap();
    assert_eq!(state.messages.len(), 50);
    assert_eq!(state.host, Some(user("bob")));
    let mut seqs = Vec::new();
    while seqs.len() < 305 {
        let page = bob.history(&lobby, seqs.len() as u64).await;
        assert!(!page.is_empty());
        seqs.extend(page.iter().map(|event| event.seq.0));
    }
    assert_eq!(seqs, (1..=305).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_closed_lobby_ends_for_all_and_a_new_one_goes_on_behind_it() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    bob.chat(&lobby, "before").await;
    let close = || Command::Lobby(lobby.clone(), LobbyCommand::Close);
    assert_eq!(bob.ask(close(), None).await.unwrap_err().code, ErrorCode::Forbidden);
    let Answer::Changed { seq: closed, .. } = ann.ask(close(), None).await.unwrap() else { panic!("no seq") };
    bob.event_that(|event| matches!(event, Event::Lobby(event) if event.seq == closed)).await;
    assert_eq!(bob.ask(chat(&lobby, "after"), None).await.unwrap_err().code, ErrorCode::LobbyClosed);
    let joined = bob.join(&lobby).await;
    assert_eq!((joined.seq, joined.state.unwrap().messages.len()), (Seq(closed.0 + 2), 0));
    let first = bob.history(&lobby, 0).await[0].seq;
    assert_eq!(first, closed.next(), "history does not reach behind the close");
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
async fn a_resume_enters_no_more_lobbies_than_joins_would() {
    let fleet = fleet(Limits { lobbies_per_session_max: 5, joins_per_s: 1, ..no_rates() }).await;
    let mut ann = fleet.connect(0, "ann").await;
    let points: Vec<_> = (0..5).map(|n| lobby(&format!("lobby-{n}"))).collect();
    for lobby in &points[..3] {
        ann.join(lobby).await;
        ann.leave(lobby).await;
    }
    let home = points[0].clone();
    ann.join(&home).await;
    let since = |lobby: &LobbyId| ResumePoint::new(lobby.clone(), Epoch::default(), Seq(0));
    let outcome = ann.ask(Command::Resume(points.iter().map(since).collect()), None).await;
    let Ok(Answer::Resumed(outcomes)) = outcome else { panic!("{outcome:?}") };
    // One of five joins was left in the bucket: the others are told when to come again.
    assert!(outcomes[0].is_ok(), "{outcomes:?}");
    for outcome in &outcomes[1..] {
        let Err((_, refusal)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(refusal.code, ErrorCode::RateLimited);
        assert!(refusal.retry_ms.is_some());
    }
    sleep(Duration::from_secs(10)).await;
    let strange: Vec<_> = (10..15).map(|n| lobby(&format!("lobby-{n}"))).collect();
    let outcome = ann.ask(Command::Resume(strange.iter().map(since).collect()), None).await;
    let Ok(Answer::Resumed(outcomes)) = outcome else { panic!("{outcome:?}") };
    let codes: Vec<_> =
        outcomes.iter().map(|one| one.as_ref().err().map(|(_, refusal)| refusal.code)).collect();
    // In one lobby already: four more may be tried, and these do not exist.
    assert_eq!(codes, [vec![Some(ErrorCode::NotFound); 4], vec![Some(ErrorCode::Conflict)]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_user_creates_so_many_lobbies_a_minute_whatever_nodes_own_them() {
    let fleet = fleet(Limits { creates_per_minute: 10, ..no_rates() }).await;
    let mut ann = fleet.connect(0, "ann").await;
    let mut bob = fleet.connect(0, "bob").await;
    let (others, mut made) = (lobby("others"), 0);
    bob.join(&others).await;
    let create = || Join { create: Some(Settings::default()), ..Join::default() };
    for number in 0..40 {
        match ann.join_with(&lobby(&format!("mine-{number}")), create()).await {
            Ok(_) => made += 1,
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::RateLimited);
                assert!(refusal.retry_ms.is_some());
            }
        }
        // What is there already is entered, and costs nothing.
        ann.join_with(&others, create()).await.unwrap();
        ann.leave(&others).await;
    }
    assert_eq!(made, 10);
    let mine = (0..10).map(|number| lobby(&format!("mine-{number}")));
    let owners: HashSet<_> = mine.filter_map(|lobby| fleet.owner(&lobby)).collect();
    assert_eq!(owners.len(), 2, "the lobbies are on both nodes");
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

#[tokio::test(start_paused = true)]
async fn a_resume_of_thousands_of_events_to_a_slow_socket_does_not_end_in_4002() {
    let limits = Limits {
        outbox_bytes_max: 64 * 1024,
        resume_events_max: 10_000,
        resume_bytes_max: 16 * 1024 * 1024,
        ..no_rates()
    };
    let fleet = fleet(limits).await;
    for number in [0, 1] {
        let (lobby, mut ann) = owned_by(&fleet, 0).await;
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join(&lobby).await;
        drop(bob);
        let long = "x".repeat(200);
        for _ in 0..3_000 {
            ann.chat(&lobby, &long).await;
        }
        let entrance = Entrance { pipe_bytes: 2_048, ..Entrance::default() };
        let mut bob = fleet.connect_with(number, "bob", entrance).await;
        let joined = bob.join_since(&lobby, Position { epoch: joined.epoch, seq: joined.seq }).await;
        assert_eq!((joined.status, joined.missed), (JoinStatus::Resumed, 3_000));
        let mut at = joined.seq;
        let mut talked = 0;
        let caught_up = loop {
            let event = timeout(Duration::from_secs(100), bob.event()).await;
            match event.unwrap_or_else(|_| panic!("stuck at {at}, at node {number}")) {
                Event::Lobby(event) => {
                    assert_eq!(event.seq, at.next());
                    at = event.seq;
                }
                Event::CaughtUp { seq, .. } => break seq,
                Event::Back { .. } => {}
                other => panic!("{other:?}"),
            }
            sleep(Duration::from_millis(1)).await;
            if at.0 % 10 == 0 {
                // The lobby does not wait for bob.
                ann.chat(&lobby, "meanwhile").await;
                talked += 1;
            }
        };
        assert_eq!(caught_up, at);
        assert!(at.0 >= joined.seq.0 + joined.missed, "at least the missed ones came first");
        let last = ann.chat(&lobby, "and now").await;
        while at < last {
            let Event::Lobby(event) = bob.event().await else { panic!("not an event") };
            assert_eq!(event.seq, at.next());
            at = event.seq;
        }
        assert!(talked >= 300);
        ann.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_seq_stays_in_its_place_behind_missed_events() {
    let fleet = fleet(Limits { resume_events_max: 10_000, ..no_rates() }).await;
    for number in [0, 1] {
        let (lobby, mut ann) = owned_by(&fleet, 0).await;
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join(&lobby).await;
        drop(bob);
        for round in 0..500 {
            ann.chat(&lobby, &format!("missed {round}")).await;
        }
        let entrance = Entrance { pipe_bytes: 1_024, ..Entrance::default() };
        let mut bob = fleet.connect_with(number, "bob", entrance).await;
        bob.join_since(&lobby, Position { epoch: joined.epoch, seq: joined.seq }).await;
        let mut expected: Vec<_> = (0..500).map(|round| format!("missed {round}")).collect();
        for round in 0..20 {
            ann.chat(&lobby, &format!("kept {round}")).await;
            ann.ask(message(&lobby, "game", &format!("passing {round}"), Class::Ordered), None)
                .await
                .unwrap();
            expected.extend([format!("kept {round}"), format!("passing {round}")]);
        }
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            let event = timeout(Duration::from_secs(100), bob.event()).await;
            seen.extend(text(
                &event.unwrap_or_else(|_| panic!("stuck behind {:?} at node {number}", seen.last())),
            ));
        }
        assert_eq!(seen, expected);
        ann.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_of_several_lobbies_is_answered_before_their_events() {
    let fleet = fleet(no_rates()).await;
    let lobbies: Vec<_> = (0..8).map(|number| lobby(&format!("lobby-{number}"))).collect();
    let (mut ann, mut bob) = (fleet.connect(0, "ann").await, fleet.connect(1, "bob").await);
    let mut points = Vec::new();
    for lobby in &lobbies {
        ann.join(lobby).await;
        let joined = bob.join(lobby).await;
        points.push(ResumePoint::new(lobby.clone(), joined.epoch, joined.seq));
    }
    drop(bob);
    for lobby in &lobbies {
        ann.chat(lobby, "missed").await;
    }
    points.push(ResumePoint { lobby: lobby("never-made"), ..points[0].clone() });
    points[0].seq = Seq(points[0].seq.0 + 100);
    let mut bob = fleet.connect(0, "bob").await;
    let id = bob.send(Command::Resume(points), None).await.unwrap();
    let first = bob.next().await.unwrap();
    let ServerFrame::Reply { id: of, outcome } = first else { panic!("{first:?} comes first") };
    assert_eq!(of, id);
    let Ok(Answer::Resumed(outcomes)) = outcome else { panic!("{outcome:?}") };
    let status: Vec<_> = outcomes
        .iter()
        .map(|outcome| outcome.as_ref().map(|joined| joined.status).map_err(|(_, refusal)| refusal.code))
        .collect();
    assert_eq!(status[0], Ok(JoinStatus::Snapshot), "a position of the future");
    assert!(status[1..8].iter().all(|status| *status == Ok(JoinStatus::Resumed)), "{status:?}");
    assert_eq!(status[8], Err(ErrorCode::NotFound));
    for _ in 1..8 {
        let mut missed = 0;
        let of = bob.event_that(|event| matches!(event, Event::Lobby(_))).await;
        missed += u64::from(text(&of).as_deref() == Some("missed"));
        bob.event_that(|event| matches!(event, Event::CaughtUp { .. })).await;
        assert_eq!(missed, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_join_beside_a_resume_takes_none_of_the_missed_events_away() {
    let fleet = fleet(no_rates()).await;
    for number in [0, 1] {
        let (lobby, mut ann) = owned_by(&fleet, 0).await;
        let mut bob = fleet.connect(number, "bob").await;
        let joined = bob.join(&lobby).await;
        drop(bob);
        for round in 0..40 {
            ann.chat(&lobby, &format!("missed {round}")).await;
        }
        let mut bob = fleet.connect(number, "bob").await;
        let point = ResumePoint::new(lobby.clone(), joined.epoch, joined.seq);
        // A second lobby, elsewhere or not, keeps the reply waiting for a moment.
        let other = ResumePoint { lobby: crate::fleet::lobby("never-made"), ..point.clone() };
        let resume = bob.send(Command::Resume(vec![point, other]), None).await.unwrap();
        let joins = [Join::default(), Join::default()].map(LobbyCommand::Join);
        let mut asked = Vec::new();
        for join in joins {
            asked.push(bob.send(Command::Lobby(lobby.clone(), join), None).await.unwrap());
        }
        let mut at = None;
        let mut entered = 0;
        while entered < 2 {
            match bob.next().await.unwrap() {
                ServerFrame::Reply { id, outcome: Ok(Answer::Resumed(outcomes)) } if id == resume => {
                    let resumed = outcomes[0].as_ref().unwrap();
                    assert_eq!((resumed.status, resumed.missed), (JoinStatus::Resumed, 40));
                    at = Some(resumed.seq);
                }
                ServerFrame::Reply { id, outcome } => {
                    asked.retain(|open| *open != id);
                    let Ok(Answer::Joined(joined)) = outcome else { panic!("{outcome:?}") };
                    (at, entered) = (Some(joined.seq), entered + 1);
                }
                ServerFrame::Event(Event::Lobby(event)) => {
                    let before = at.expect("no event comes before the ok");
                    assert_eq!(event.seq, before.next());
                    at = Some(event.seq);
                }
                ServerFrame::Event(Event::CaughtUp { seq, .. }) => {
                    assert_eq!(seq.0, joined.seq.0 + 40, "all that was promised came");
                }
                ServerFrame::Event(_) | ServerFrame::Unknown => {}
            }
        }
        let seq = ann.chat(&lobby, "live").await;
        let event = bob.event_that(|event| text(event).is_some()).await;
        assert!(matches!(event, Event::Lobby(event) if event.seq == seq));
        ann.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_outlive_their_lobbys_owner() {
    let fleet = Fleet::start(Plan { nodes: 3, limits: no_rates(), ..Plan::default() }).await;
    let (lobby, ann) = owned_by(&fleet, 0).await;
    let (mut bob, mut cat) = (fleet.connect(1, "bob").await, fleet.connect(2, "cat").await);
    let epoch = bob.join(&lobby).await.epoch;
    cat.join(&lobby).await;
    let Answer::Sent { seq: kept, .. } = bob.ask(chat(&lobby, "kept"), Some("n-1")).await.unwrap() else {
        panic!("no seq")
    };
    let killed = Instant::now();
    fleet.kill(0);
    // Sent into the pause; repeated with its nonce as a client does.
    let mut refused = 0;
    let (after, seq) = loop {
        match bob.ask(chat(&lobby, "through"), Some("n-2")).await {
            Ok(Answer::Sent { epoch, seq, .. }) => break (epoch, seq),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                assert!(refusal.retry_ms.is_some(), "{refusal:?}");
                refused += 1;
            }
        }
    };
    let pause = killed.elapsed();
    assert!(pause <= Duration::from_secs(9), "{pause:?}, {refused} refused");
    assert_eq!((after > epoch, seq), (true, kept.next()));
    let repeated = bob.ask(chat(&lobby, "kept"), Some("n-1")).await.unwrap();
    assert!(matches!(repeated, Answer::Sent { seq, dup: true, .. } if seq == kept), "{repeated:?}");
    // Ann's node died with her; she has a full grace.
    tokio::join!(bob.stay(Duration::from_secs(75)), cat.stay(Duration::from_secs(75)));
    for line in [&mut bob, &mut cat] {
        let (mut texts, mut away) = (Vec::new(), Vec::new());
        let left = loop {
            match line.event().await {
                Event::Lobby(event) if event.change.name() == "left" => break event,
                Event::Away { user, .. } => away.push(user),
                event => texts.extend(text(&event)),
            }
        };
        assert_eq!(away, [user("ann")], "the others hear first that she is away, and nobody else");
        assert_eq!(texts, ["kept", "through"]);
        assert_eq!(left.change, Change::Left { user: user("ann"), reason: Some("timeout".to_owned()) });
    }
    drop(ann);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_under_its_name_claims_its_lobbies_at_once() {
    let fleet = fleet(no_rates()).await;
    let (lobby, mut ann) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&lobby).await;
    let kept = ann.chat(&lobby, "kept").await;
    fleet.kill(0);
    assert_eq!(ann.close_code().await, None, "a kill says nothing");
    let back = Instant::now();
    fleet.start_node(0);
    let mut seq = None;
    while seq.is_none() {
        if let Ok(Answer::Sent { seq: at, .. }) = bob.ask(chat(&lobby, "again"), Some("n-1")).await {
            seq = Some(at);
        }
    }
    assert_eq!(seq, Some(kept.next()));
    assert!(back.elapsed() <= Duration::from_secs(6), "{:?}", back.elapsed());
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
async fn capacity_holds_across_nodes() {
    let fleet = fleet(no_rates()).await;
    let lounge = lobby("lounge");
    let mut lines = Vec::new();
    for number in 0..6 {
        lines.push(fleet.connect(number % 2, &format!("player-{number}")).await);
    }
    let mut inside = 0;
    for line in &mut lines {
        let settings = Settings { capacity: Some(4), ..Settings::default() };
        match line.join_with(&lounge, Join { create: Some(settings), ..Join::default() }).await {
            Ok(_) => inside += 1,
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::LobbyFull),
        }
    }
    assert_eq!(inside, 4);
}
