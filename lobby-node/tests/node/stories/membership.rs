//! Who is in a lobby: joining, being away, leaving; lobbies that are full, empty or closed.

use std::collections::HashSet;
use std::time::Duration;

use mlms_protocol::command::{Join, Position};
use mlms_protocol::lobby::Settings;
use mlms_protocol::{Answer, Change, Command, ErrorCode, Event, JoinStatus, Limits, LobbyCommand, Seq};
use tokio::time::Instant;

use super::{fleet, no_rates, owned_by};
use crate::fleet::{Entrance, lobby, user};
use crate::line::chat;

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
