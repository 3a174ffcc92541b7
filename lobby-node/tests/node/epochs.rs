//! Directory and journal are lost with every node that knew them: what the event store has goes on under higher epochs.

use std::time::Duration;

use mlms_protocol::command::Position;
use mlms_protocol::placement::shard_of;
use mlms_protocol::{Epoch, Event, JoinStatus};
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, Plan};
use crate::stories::text;

#[tokio::test(start_paused = true)]
async fn after_the_loss_of_everything_but_the_event_store_epochs_go_on() {
    let fleet = Fleet::start(Plan::default()).await;
    let lobby = crate::fleet::lobby("lasting");
    let mut ann = fleet.connect(0, "ann").await;
    let before = ann.join(&lobby).await;
    for text in ["one", "two", "three"] {
        ann.chat(&lobby, text).await;
    }
    // A move is a higher epoch, which the store hears of a moment later.
    let to = 1 - fleet.owner(&lobby).unwrap();
    assert!(fleet.move_lobby(&lobby, to).await);
    let last = ann.chat(&lobby, "four").await;
    let moved = Epoch(before.epoch.0 + 1);
    let began = Instant::now();
    while fleet.store.shard_epoch(shard_of(&lobby)).await.unwrap() != Some(moved) {
        assert!(began.elapsed() < Duration::from_secs(10), "the store never hears of the epoch");
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(5)).await;
    fleet.kill_all();

    let fleet = Fleet::start_on(Plan::default(), fleet.store.clone()).await;
    let mut ann = fleet.connect(0, "ann").await;
    let after = loop {
        match ann.join_with(&lobby, Default::default()).await {
            Ok(joined) => break joined,
            Err(refusal) => assert!(refusal.retry_ms.is_some(), "{refusal:?}"),
        }
    };
    assert!(
        after.epoch > Epoch(moved.0 + 1),
        "{} is not beyond what may have been after {moved}",
        after.epoch
    );
    let said = ann.chat(&lobby, "five").await;
    assert!(said > last);
    let history = ann.history(&lobby, 0).await;
    assert!(history.is_sorted_by_key(|event| event.epoch), "epochs go back");
    let texts: Vec<_> = history.into_iter().filter_map(|event| text(&Event::Lobby(event))).collect();
    assert_eq!(texts, ["one", "two", "three", "four", "five"]);
    // Whoever heard more than the store has is not taken for somebody who heard what is there now.
    let mut bob = fleet.connect(1, "bob").await;
    let since = Position { epoch: moved, seq: said };
    assert_eq!(bob.join_since(&lobby, since).await.status, JoinStatus::Snapshot);
}
