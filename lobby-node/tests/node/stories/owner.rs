//! A lobby's owner dies, or comes back under its name.

use std::time::Duration;

use mlms_protocol::{Answer, Change, Event};
use tokio::time::Instant;

use super::{fleet, no_rates, owned_by, text};
use crate::fleet::{Fleet, Plan, user};
use crate::line::chat;

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
