//! Stories of lobbies that change their owner while everybody lives.

use std::time::Duration;

use mlms_cluster::link::LinkConfig;
use mlms_protocol::{Class, Command, Event, LobbyCommand, LobbyId, Seq, ServerFrame};
use tokio::time::{Instant, sleep, timeout};

use crate::fleet::{Fleet, Plan};
use crate::line::{Line, chat, message};
use crate::stories::{no_rates, text};

async fn fleet(nodes: usize) -> std::sync::Arc<Fleet> {
    Fleet::start(Plan { nodes, limits: no_rates(), ..Plan::default() }).await
}

/// What a member notes of a lobby: sequenced events without a gap, and every text once.
struct Notes {
    line: Line,
    at: Seq,
    texts: Vec<String>,
}

impl Notes {
    fn note(&mut self, event: &Event) {
        match event {
            Event::Lobby(event) => {
                assert_eq!(event.seq, self.at.next(), "an event is missing, or came twice");
                self.at = event.seq;
            }
            Event::Snapshot { .. } | Event::CaughtUp { .. } | Event::Bye { .. } => {
                panic!("a member noticed: {event:?}")
            }
            _ => {}
        }
        self.texts.extend(text(event));
    }

    async fn read_until(&mut self, count: usize) {
        while self.texts.len() < count {
            let event = timeout(Duration::from_secs(30), self.line.event()).await;
            let event = event.unwrap_or_else(|_| panic!("only {} of {count} came", self.texts.len()));
            self.note(&event);
        }
    }
}

/// Talks: durable and ordered messages in turn, each after the answer to the one before. Gives the longest wait.
async fn talk(mut line: Line, lobby: LobbyId, name: &str, count: usize) -> (Line, Duration) {
    let mut longest = Duration::ZERO;
    for number in 0..count {
        let body = format!("{name} {number}");
        let command = match number % 2 {
            0 => chat(&lobby, &body),
            _ => message(&lobby, "game", &body, Class::Ordered),
        };
        let began = Instant::now();
        line.ask(command, None).await.unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"));
        longest = longest.max(began.elapsed());
        sleep(Duration::from_millis(3)).await;
    }
    (line, longest)
}

#[tokio::test(start_paused = true)]
async fn a_moved_lobby_pauses_for_a_moment_and_its_members_notice_nothing() {
    let fleet = fleet(4).await;
    let lobby = crate::fleet::lobby("on-the-move");
    let mut speakers = Vec::new();
    let mut listeners = Vec::new();
    // The fourth node has no session in the lobby.
    for node in 0..3 {
        let mut speaker = fleet.connect(node, &format!("speaker-{node}")).await;
        speaker.join(&lobby).await;
        speakers.push((format!("speaker-{node}"), speaker));
        let mut line = fleet.connect(node, &format!("listener-{node}")).await;
        let joined = line.join(&lobby).await;
        listeners.push(Notes { line, at: joined.seq, texts: Vec::new() });
    }
    let count = 400;
    let talking: Vec<_> = speakers
        .into_iter()
        .map(|(name, line)| {
            let lobby = lobby.clone();
            tokio::spawn(async move { talk(line, lobby, &name, count).await })
        })
        .collect();
    for round in 0..12 {
        sleep(Duration::from_millis(90)).await;
        let to = (fleet.owner(&lobby).unwrap() + 1 + round % 3) % 4;
        assert!(fleet.move_lobby(&lobby, to).await, "move {round} to node {to}");
        assert_eq!(fleet.owner(&lobby), Some(to));
    }
    for talking in talking {
        let (_line, longest) = talking.await.unwrap();
        let bound = Duration::from_millis(200) + LinkConfig::default().acknowledge;
        assert!(longest < bound, "a message waited for {longest:?}");
    }
    for notes in &mut listeners {
        notes.read_until(3 * count).await;
        for node in 0..3 {
            let name = format!("speaker-{node} ");
            let heard: Vec<_> = notes.texts.iter().filter(|text| text.starts_with(&name)).collect();
            let said: Vec<_> = (0..count).map(|number| format!("{name}{number}")).collect();
            assert!(heard.into_iter().eq(said.iter()), "everything of one sender, once and in its order");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_gives_its_lobbies_away_before_it_sends_its_sessions_off() {
    let fleet = fleet(3).await;
    let lobbies: Vec<_> = (0..30).map(|number| crate::fleet::lobby(&format!("lobby-{number}"))).collect();
    let mut notes = Vec::new();
    let mut ann = fleet.connect(1, "ann").await;
    let mut bob = fleet.connect(0, "bob").await;
    for lobby in &lobbies {
        let joined = ann.join(lobby).await;
        bob.join(lobby).await;
        notes.push((lobby.clone(), joined.seq));
        ann.chat(lobby, "before").await;
    }
    assert!(lobbies.iter().any(|lobby| fleet.owner(lobby) == Some(0)), "node 0 owns something");
    let draining = tokio::spawn({
        let fleet = std::sync::Arc::clone(&fleet);
        async move { fleet.drain(0).await }
    });
    // Bob is asked to come back in a while; then nothing is owned where he was.
    let bye = bob.event_that(|event| matches!(event, Event::Bye { .. })).await;
    assert!(matches!(&bye, Event::Bye { window_ms: Some((from, to)), .. } if from < to), "{bye:?}");
    assert_eq!(bob.close_code().await, Some(4000));
    assert!(lobbies.iter().all(|lobby| fleet.owner(lobby).is_some_and(|owner| owner != 0)));
    let began = Instant::now();
    for lobby in &lobbies {
        ann.chat(lobby, "after").await;
    }
    assert!(began.elapsed() < Duration::from_secs(3));
    draining.await.unwrap();
    for (lobby, joined) in notes {
        let texts: Vec<_> = ann
            .history(&lobby, joined.0)
            .await
            .into_iter()
            .filter_map(|event| text(&Event::Lobby(event)))
            .collect();
        assert_eq!(texts, ["before", "after"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_new_owner_dies_in_the_middle_comes_back() {
    let fleet = fleet(3).await;
    for round in 0..6_u64 {
        let lobby = crate::fleet::lobby(&format!("lobby-{round}"));
        let mut ann = fleet.connect(0, "ann").await;
        ann.join(&lobby).await;
        let owner = fleet.owner(&lobby).unwrap();
        let target = if owner == 1 { 2 } else { 1 };
        let moving = tokio::spawn({
            let (fleet, lobby) = (std::sync::Arc::clone(&fleet), lobby.clone());
            async move { fleet.move_lobby(&lobby, target).await }
        });
        sleep(Duration::from_micros(500 * round)).await;
        fleet.kill(target);
        // Whatever step the move was at, the lobby is served again, with the same answer to a repeat.
        let began = Instant::now();
        let said = loop {
            match ann.ask(chat(&lobby, "still here"), Some("nonce")).await {
                Ok(answer) => break answer,
                Err(refusal) => assert!(refusal.retry_ms.is_some(), "{refusal:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        };
        assert!(began.elapsed() < Duration::from_secs(9), "it took {:?} in round {round}", began.elapsed());
        let again = ann.ask(chat(&lobby, "still here"), Some("nonce")).await.unwrap();
        let seq = |answer: &_| match answer {
            mlms_protocol::Answer::Sent { seq, .. } => *seq,
            other => panic!("{other:?}"),
        };
        assert_eq!(seq(&said), seq(&again));
        moving.await.unwrap();
        ann.close().await;
        fleet.start_node(target);
        sleep(Duration::from_secs(3)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_whose_owner_has_no_time_to_give_it_away_is_claimed_at_once() {
    let fleet = fleet(3).await;
    for round in 0..8_u64 {
        let lobby = crate::fleet::lobby(&format!("lobby-{round}"));
        let mut ann = fleet.connect(0, "ann").await;
        ann.join(&lobby).await;
        let owner = fleet.owner(&lobby).unwrap();
        if owner == 0 {
            ann.close().await;
            ann = fleet.connect(1, "ann").await;
            ann.join(&lobby).await;
        }
        // Whatever step the move is at when it is cut short.
        fleet.drain_in_a_hurry(owner, Duration::from_micros(500 * round)).await;
        let began = Instant::now();
        while let Err(refusal) = ann.ask(chat(&lobby, "still here"), Some("nonce")).await {
            ann.stay(Duration::from_millis(refusal.retry_ms.expect("it is served again"))).await;
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{:?} in round {round}", began.elapsed());
        ann.close().await;
        fleet.start_node(owner);
        sleep(Duration::from_secs(3)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn commands_in_a_row_keep_their_order_across_a_move() {
    let fleet = fleet(3).await;
    let lobby = crate::fleet::lobby("in-order");
    let mut ann = fleet.connect(0, "ann").await;
    let joined = ann.join(&lobby).await;
    let mut notes = Notes { line: fleet.connect(1, "bob").await, at: joined.seq, texts: Vec::new() };
    notes.at = notes.line.join(&lobby).await.seq;
    let count = 3_000;
    let mover = tokio::spawn({
        let (fleet, lobby) = (std::sync::Arc::clone(&fleet), lobby.clone());
        async move {
            for _ in 0..8 {
                sleep(Duration::from_millis(20)).await;
                let to = (fleet.owner(&lobby).unwrap() + 1) % 3;
                fleet.move_lobby(&lobby, to).await;
            }
        }
    });
    for number in 0..count {
        let body = number.to_string();
        let command = match number % 3 {
            0 => message(&lobby, "game", &body, Class::Ordered),
            _ => chat(&lobby, &body),
        };
        let Command::Lobby(_, LobbyCommand::Send(_)) = &command else { unreachable!() };
        ann.send(command, None).await.unwrap();
        if number % 20 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    let mut answers = 0;
    while answers < count {
        if let ServerFrame::Reply { outcome, .. } = ann.next().await.unwrap() {
            outcome.unwrap();
            answers += 1;
        }
    }
    mover.await.unwrap();
    notes.read_until(count).await;
    assert!(
        notes.texts.iter().map(String::as_str).eq((0..count)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str))
    );
}
