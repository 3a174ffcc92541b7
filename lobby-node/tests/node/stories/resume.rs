//! Coming back to a position: what was missed comes in order and all of it, whatever else goes on.

use std::time::Duration;

use mlms_protocol::command::{Join, Position, ResumePoint};
use mlms_protocol::{
    Answer, Class, Command, Epoch, ErrorCode, Event, JoinStatus, Limits, LobbyCommand, LobbyId, Seq,
    ServerFrame,
};
use tokio::time::{sleep, timeout};

use super::{fleet, no_rates, owned_by, text};
use crate::fleet::{Entrance, lobby};
use crate::line::message;

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
