//! What the journal keeps: it is trimmed behind snapshots, and a lobby is whole for whoever owns it next.

use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::embedded::Faults;
use mlms_protocol::command::Join;
use mlms_protocol::{Change, Limits, LobbyId};

use crate::fleet::{Fleet, Plan, lobby, user};
use crate::line::{Line, chat};
use crate::stories::no_rates;

/// Messages in one turn of somebody who talks on and on.
const TURN: usize = 20;

/// A fleet whose appends take their time, so that one is always under way, and which keeps entries only briefly.
async fn fleet() -> Arc<Fleet> {
    let faults = Faults::seeded(7);
    faults.set_journal(0, 0, 800);
    let limits = Limits { resume_seconds_max: 2, ..no_rates() };
    Fleet::start(Plan { limits, faults: Some(faults), ..Plan::default() }).await
}

/// A session on another node than the lobby's owner, in the lobby.
async fn neighbour(fleet: &Fleet, place: &LobbyId) -> (usize, Line) {
    let mut line = fleet.connect(0, "ann").await;
    line.join(place).await;
    let owner = fleet.owner(place).unwrap();
    if owner == 0 {
        line.close().await;
        line = fleet.connect(1, "ann").await;
        line.join(place).await;
    }
    (owner, line)
}

/// Talks without waiting for answers, for so long.
async fn talk(line: &mut Line, place: &LobbyId, seconds: usize) -> Vec<String> {
    let mut said = Vec::new();
    for turn in 0..seconds * 10 {
        for number in 0..TURN {
            let text = format!("{turn}-{number}");
            line.send(chat(place, &text), None).await.unwrap();
            said.push(text);
        }
        line.stay(Duration::from_millis(100)).await;
    }
    line.stay(Duration::from_secs(1)).await;
    said
}

#[tokio::test(start_paused = true)]
async fn a_lobby_is_whole_for_its_next_owner_though_it_was_busy_when_its_snapshot_was_taken() {
    let fleet = fleet().await;
    let place = lobby("busy");
    let (owner, mut ann) = neighbour(&fleet, &place).await;
    // Long enough for a snapshot, and for what it covers to be trimmed.
    let said = talk(&mut ann, &place, 40).await;
    fleet.kill(owner);
    let joined = loop {
        match ann.join_with(&place, Join::default()).await {
            Ok(joined) => break joined,
            Err(refusal) => {
                let pause = refusal.retry_ms.unwrap_or_else(|| panic!("it is lost for good: {refusal:?}"));
                ann.stay(Duration::from_millis(pause)).await;
            }
        }
    };
    let mut heard = Vec::new();
    let mut after = 0;
    while after < joined.seq.0 {
        for event in ann.history(&place, after).await {
            assert_eq!(event.seq.0, after + 1);
            after = event.seq.0;
            if let Change::Message { from: Some(from), body, .. } = &event.change {
                assert_eq!(*from, user("ann"));
                heard.extend(body.as_text());
            }
        }
    }
    assert_eq!(heard, said);
    assert_eq!(ann.chat(&place, "on we go").await, joined.seq.next());
}
