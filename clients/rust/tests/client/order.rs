//! Sequenced events: each once, in order, without gaps; and what ends a membership.

use mlms_client::protocol::command::{Join, ResumePoint};
use mlms_client::protocol::{
    Answer, Change, Command, Epoch, ErrorCode, Event, JoinStatus, LobbyEvent, Millis, Refusal, Seq, UserId,
};
use mlms_client::{Error, Incoming};
use tokio::time::Instant;

use crate::script::*;

fn about(seq: u64, change: Change) -> Event {
    Event::Lobby(LobbyEvent { lobby: lobby("lounge"), epoch: Epoch(1), seq: Seq(seq), at: Millis(1), change })
}

fn ann() -> UserId {
    UserId::new("ann").unwrap()
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_dropped() {
    let (_server, mut peer, _client, mut events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    for seq in [11, 11, 10, 9, 12, 11, 13] {
        peer.chat(&lounge, seq).await;
    }
    for seq in 11..=13 {
        assert_eq!(next_seq(&mut events).await, seq);
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_lobbies_that_were_never_joined_are_dropped() {
    let (_server, mut peer, _client, mut events) = in_the_lounge().await;
    peer.chat(&lobby("arena"), 1).await;
    peer.chat(&lobby("lounge"), 11).await;
    assert_eq!(next_seq(&mut events).await, 11);
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_closed_by_resuming_and_commands_wait_for_it() {
    let (_server, mut peer, client, mut events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    peer.chat(&lounge, 11).await;
    peer.chat(&lounge, 13).await;
    peer.chat(&lounge, 14).await;
    let (request, points) = peer.resume().await;
    assert_eq!((points.len(), points[0].seq), (1, Seq(11)));
    let (place, ()) = tokio::join!(client.chat(&lounge, "meanwhile"), async {
        peer.answer(&request, Answer::Resumed(vec![Ok(resumed(&lounge, 11))])).await;
        for seq in 12..=14 {
            peer.chat(&lounge, seq).await;
        }
        let request = peer.command().await;
        peer.answer(&request, sent(15, false)).await;
        peer.chat(&lounge, 15).await;
    });
    assert_eq!(place.unwrap().seq, Seq(15));
    for seq in 11..=15 {
        assert_eq!(next_seq(&mut events).await, seq);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_keeps_leaving_gaps_is_not_hammered() {
    let (_server, mut peer, _client, _events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    let began = Instant::now();
    for _ in 0..10 {
        peer.chat(&lounge, 99).await;
        peer.resume_all().await;
    }
    assert!(began.elapsed().as_secs() > 20, "ten resumes within {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_a_new_start() {
    let (_server, mut peer, _client, mut events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    let state = Box::new(state());
    peer.event(&Event::Snapshot { lobby: lounge.clone(), epoch: Epoch(2), seq: Seq(5), state, mark: None })
        .await;
    peer.chat(&lounge, 6).await;
    assert!(matches!(events.recv().await, Some(Incoming::Event(Event::Snapshot { .. }))));
    assert_eq!(next_seq(&mut events).await, 6);
}

#[tokio::test(start_paused = true)]
async fn who_was_kicked_does_not_resume() {
    for change in [
        Change::Kicked { user: ann(), by: None, reason: None },
        Change::Banned { user: ann(), by: None, until: None, reason: None },
        Change::Left { user: ann(), reason: None },
        Change::Closed { by: None, reason: None },
    ] {
        let (mut server, mut peer, client, mut events) = in_the_lounge().await;
        peer.event(&about(11, change)).await;
        assert_eq!(next_seq(&mut events).await, 11);
        peer.close(4000).await;
        let mut peer = server.accept().await;
        // The first command on the new connection is the application's, not a resume.
        let (outcome, ()) = tokio::join!(client.ping(), async {
            let request = peer.command().await;
            assert_eq!(request.command, Command::Ping);
            peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
        });
        assert_eq!(outcome, Ok(Millis(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn who_left_and_joined_again_in_the_missed_events_is_in() {
    let (mut server, mut peer, _client, mut events) = in_the_lounge().await;
    peer.event(&about(11, Change::Left { user: ann(), reason: None })).await;
    let role = mlms_client::protocol::MemberRole::Player;
    peer.event(&about(12, Change::Joined { user: ann(), name: "Ann".to_owned(), role })).await;
    assert_eq!(next_seq(&mut events).await, 11);
    assert_eq!(next_seq(&mut events).await, 12);
    peer.close(4000).await;
    assert_eq!(server.accept().await.resume_all().await[0].seq, Seq(12));
}

#[tokio::test(start_paused = true)]
async fn each_lobby_comes_out_of_a_resume_by_itself() {
    let (mut server, mut peer, client, mut events) = in_the_lounge().await;
    for name in ["arena", "attic", "bar"] {
        let lobby = lobby(name);
        let (outcome, _) = tokio::join!(client.join(&lobby, Join::default()), peer.let_join(3));
        outcome.unwrap();
    }
    peer.close(4000).await;
    let mut peer = server.accept().await;
    let (request, points) = peer.resume().await;
    let names: Vec<_> = points.iter().map(|point| point.lobby.as_str()).collect();
    assert_eq!(names, ["arena", "attic", "bar", "lounge"]);
    let refusal = |code| Refusal::new(code, "no");
    let outcomes = vec![
        Ok(resumed(&lobby("arena"), 3)),
        Err((lobby("attic"), refusal(ErrorCode::NotFound))),
        Err((lobby("bar"), refusal(ErrorCode::OwnerUnavailable).retry_after(1_000))),
        Ok(mlms_client::protocol::reply::Joined {
            status: JoinStatus::Snapshot,
            ..joined(&lobby("lounge"), 50)
        }),
    ];
    let (attic, bar) = (lobby("attic"), lobby("bar"));
    let asked = Instant::now();
    let in_bar = client.chat(&bar, "waits");
    let in_attic = client.chat(&attic, "is refused");
    let (in_bar, in_attic, ()) = tokio::join!(in_bar, in_attic, async {
        peer.answer(&request, Answer::Resumed(outcomes)).await;
        peer.chat(&lobby("arena"), 4).await;
        peer.chat(&lobby("lounge"), 51).await;
        let request = peer.command().await;
        peer.refuse(&request, refusal(ErrorCode::NotMember)).await;
        // The lobby that had to wait asks again, not before its time, and its command goes behind.
        let points = peer.resume_all().await;
        assert_eq!((points.len(), points[0].lobby.as_str()), (1, "bar"));
        assert!(asked.elapsed().as_millis() >= 1_000);
        let request = peer.command().await;
        peer.answer(&request, sent(4, false)).await;
    });
    assert_eq!(in_bar.unwrap().seq, Seq(4));
    assert!(matches!(in_attic, Err(Error::Refused(_))));
    let mut seen = Vec::new();
    while let Some(incoming) = events.try_recv() {
        match incoming {
            Incoming::Event(Event::Lobby(event)) => seen.push(format!("{} {}", event.lobby, event.seq)),
            Incoming::Ended { lobby, refusal } => seen.push(format!("{lobby} {}", refusal.code)),
            Incoming::Joined(joined) => seen.push(format!("{} {}", joined.lobby, joined.status)),
            Incoming::Event(_) => {}
        }
    }
    let expected = [
        "arena joined",
        "attic joined",
        "bar joined",
        "arena resumed",
        "attic not_found",
        "lounge snapshot",
        "arena 4",
        "lounge 51",
        "bar resumed",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn many_lobbies_are_resumed_in_a_few_frames_at_once() {
    let (mut server, mut peer, client, _events) = in_the_lounge().await;
    for number in 0..99 {
        let lobby = lobby(&format!("lobby-{number:02}"));
        let (outcome, _) = tokio::join!(client.join(&lobby, Join::default()), peer.let_join(1));
        outcome.unwrap();
    }
    peer.close(4000).await;
    let mut peer = server.accept().await;
    // Both before the first answer.
    let (_, first) = peer.resume().await;
    let (_, second) = peer.resume().await;
    assert_eq!((first.len(), second.len()), (50, 50));
}

#[tokio::test(start_paused = true)]
async fn a_resume_says_what_its_join_said_and_creates_nothing() {
    let (mut server, mut peer, client, _events) = in_the_lounge().await;
    let vault = lobby("vault");
    let join = Join {
        create: Some(Default::default()),
        saved: true,
        password: Some("sesame".to_owned()),
        ..Join::default()
    };
    let (outcome, _) = tokio::join!(client.join(&vault, join.clone()), peer.let_join(3));
    outcome.unwrap();
    peer.close(4000).await;
    let mut peer = server.accept().await;
    let (_, points) = peer.resume().await;
    let point = ResumePoint {
        saved: true,
        password: join.password,
        ..ResumePoint::new(vault.clone(), Epoch(1), Seq(3))
    };
    assert_eq!(points.iter().find(|point| point.lobby == vault), Some(&point));
    assert_eq!(points.len(), 2);
}
