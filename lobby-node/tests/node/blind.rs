//! A node that has lost sight of the directory for longer than its lease, while its players stay.

use std::time::Duration;

use mlms_cluster::embedded::Faults;
use mlms_protocol::{Class, ErrorCode, Event, NoticeCode};
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, Plan, node_name};
use crate::line::{chat, message};
use crate::stories::text;

#[tokio::test(start_paused = true)]
async fn a_node_that_has_lost_touch_says_so_at_once_and_comes_back() {
    let faults = Faults::seeded(1);
    let fleet = Fleet::start(Plan { faults: Some(faults.clone()), ..Plan::default() }).await;
    let lobby = crate::fleet::lobby("far");
    let mut bob = fleet.connect(0, "bob").await;
    bob.join(&lobby).await;
    let owner = fleet.owner(&lobby).unwrap();
    let mut ann = fleet.connect(1 - owner, "ann").await;
    ann.join(&lobby).await;
    faults.set_blind(&node_name(1 - owner), true);
    let is_degraded = |event: &Event| matches!(event, Event::Notice { code: NoticeCode::Degraded, .. });
    ann.event_that(is_degraded).await;
    let began = Instant::now();
    for command in [chat(&lobby, "lost"), message(&lobby, "game", "lost too", Class::Ordered)] {
        let refusal = ann.ask(command, None).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Degraded);
        assert!(refusal.retry_ms.is_some());
    }
    assert!(began.elapsed() < Duration::from_millis(100), "nobody waits for an answer that cannot come");
    faults.set_blind(&node_name(1 - owner), false);
    let is_back = |event: &Event| matches!(event, Event::Notice { code: NoticeCode::Recovered, .. });
    ann.event_that(is_back).await;
    ann.chat(&lobby, "found").await;
    while text(&bob.event().await).as_deref() != Some("found") {}
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_nobody_sees_any_more_loses_its_lobby_without_a_word_of_its_own() {
    let faults = Faults::seeded(1);
    let fleet = Fleet::start(Plan { faults: Some(faults.clone()), ..Plan::default() }).await;
    let lobby = crate::fleet::lobby("taken");
    let mut bob = fleet.connect(0, "bob").await;
    bob.join(&lobby).await;
    let owner = fleet.owner(&lobby).unwrap();
    let mut ann = fleet.connect(owner, "ann").await;
    let mut carl = fleet.connect(1 - owner, "carl").await;
    let joined = ann.join(&lobby).await;
    carl.join(&lobby).await;
    faults.set_blind(&node_name(owner), true);
    let began = Instant::now();
    while fleet.owner(&lobby) != Some(1 - owner) {
        // Whoever asks the heir has it claim the shard.
        _ = carl.ask(chat(&lobby, "anybody?"), None).await;
        assert!(began.elapsed() < Duration::from_secs(10), "nobody claims the lobby");
        sleep(Duration::from_millis(100)).await;
    }
    carl.chat(&lobby, "here").await;
    // The former owner finds out at its next append, and acknowledges nothing.
    assert!(ann.ask(chat(&lobby, "is this on?"), None).await.is_err());
    assert_eq!(fleet.metric(owner, "mlms_depositions_total", None), 1.0);
    faults.set_blind(&node_name(owner), false);
    ann.event_that(|event| matches!(event, Event::Notice { code: NoticeCode::Recovered, .. })).await;
    ann.chat(&lobby, "back").await;
    let said = carl.history(&lobby, joined.seq.0).await;
    let texts: Vec<_> = said.into_iter().filter_map(|event| text(&Event::Lobby(event))).collect();
    let known = ["anybody?", "here", "back"];
    assert!(texts.iter().all(|text| known.contains(&text.as_str())), "{texts:?}");
    assert!(texts.ends_with(&["here".to_owned(), "back".to_owned()]), "{texts:?}");
}

#[tokio::test(start_paused = true)]
async fn lobbies_that_nobody_can_claim_are_refused_as_degraded() {
    let faults = Faults::seeded(1);
    let fleet = Fleet::start(Plan { faults: Some(faults.clone()), ..Plan::default() }).await;
    let mut ann = fleet.connect(0, "ann").await;
    let mut bob = fleet.connect(1, "bob").await;
    for number in [0, 1] {
        faults.set_blind(&node_name(number), true);
    }
    for line in [&mut ann, &mut bob] {
        line.event_that(|event| matches!(event, Event::Notice { code: NoticeCode::Degraded, .. })).await;
    }
    // One of the two would claim it.
    for line in [&mut ann, &mut bob] {
        let began = Instant::now();
        let refusal =
            line.ask(message(&crate::fleet::lobby("fresh"), "game", "?", Class::Ordered), None).await;
        let refusal = refusal.unwrap_err();
        assert_eq!((refusal.code, refusal.retry_ms.is_some()), (ErrorCode::Degraded, true));
        assert!(began.elapsed() < Duration::from_secs(3));
    }
    for number in [0, 1] {
        faults.set_blind(&node_name(number), false);
    }
    for line in [&mut ann, &mut bob] {
        line.event_that(|event| matches!(event, Event::Notice { code: NoticeCode::Recovered, .. })).await;
        line.join(&crate::fleet::lobby("fresh")).await;
    }
}
