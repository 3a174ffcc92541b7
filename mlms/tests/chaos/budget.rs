//! The bound of what may wait for a database that is away: beyond it durable messages are refused, never dropped, and
//! everything goes on by itself when it is back. And a row that the database refuses: it is set aside alone.

use std::time::Duration;

use mlms_client::protocol::command::{History, Join};
use mlms_client::protocol::{Change, ErrorCode, Event, Kind, LobbyId, Nonce, NoticeCode};
use mlms_client::{Client, Error, Events, Incoming, Message, Sent};
use mlms_store::Store;
use mlms_test_servers::run;
use tokio::time::Instant;

use crate::books::{Consumer, rows};
use crate::crowd::retry;
use crate::fleet::Fleet;
use crate::service::{GLANCE, PATIENCE};
use crate::story::my_turn;

/// The smallest that the settings take.
const BUDGET: &str = "1048576";
/// Bytes of one message: about 300 of them fill the budget.
const MESSAGE_BYTES: usize = 3_500;
const PACE: Duration = Duration::from_millis(5);

fn message(number: usize) -> Message {
    let nonce = Nonce::new(&format!("nonce-{number}")).unwrap();
    Message::chat(&format!("{number}:{}", "x".repeat(MESSAGE_BYTES))).nonce(nonce)
}

async fn notice(events: &mut Events, wanted: NoticeCode) {
    let hear = async {
        loop {
            let heard = events.recv().await.expect("the session lives");
            if matches!(&heard, Incoming::Event(Event::Notice { code, .. }) if *code == wanted) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hear).await.unwrap_or_else(|_| panic!("no notice {wanted:?} comes"));
}

/// Sends until it is taken; gives its place, and how often it was refused.
async fn insist(client: &Client, lobby: &LobbyId, number: usize) -> (Sent, usize) {
    let began = Instant::now();
    for refused in 0.. {
        match client.send(lobby, message(number)).await {
            Ok(sent) => return (sent.expect("it is durable"), refused),
            Err(Error::Refused(refusal)) if refusal.code == ErrorCode::Degraded => {
                assert!(refusal.retry_ms.is_some(), "{refusal:?}");
                assert!(began.elapsed() < PATIENCE, "{number} is refused for ever");
            }
            Err(error) => panic!("{number}: {error}"),
        }
        tokio::time::sleep(5 * GLANCE).await;
    }
    unreachable!("it is tried until it is taken")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_budget_a_backlog_refuses_durable_messages_and_nothing_is_dropped() {
    let _turn = my_turn().await;
    let mut fleet = Fleet::with_servers(1, &[("MLMS_NODE_BACKLOG_BYTES_MAX", BUDGET)]).await;
    fleet.expected.push("the backlog is full");
    let database_url = fleet.servers().database_url.clone();
    let consumer = Consumer::begin(fleet.servers().rabbitmq.url()).await;
    let lobby = LobbyId::new("hall").unwrap();
    let (ann, mut heard) = fleet.enter("ann").await;
    let (ben, mut ben_heard) = fleet.enter("ben").await;
    for client in [&ann, &ben] {
        let join = || Join { create: Some(Default::default()), ..Join::default() };
        retry(|| async { client.join(&lobby, join()).await.map(drop) }).await;
    }

    // The database dies: everything is taken until the budget is used up.
    fleet.servers().mariadb.kill();
    let (mut taken, mut last) = (Vec::new(), 0);
    let refusal = loop {
        match ann.send(&lobby, message(last)).await {
            Ok(sent) => taken.push(sent.unwrap()),
            Err(Error::Refused(refusal)) => break refusal,
            Err(error) => panic!("{last}: {error}"),
        }
        last += 1;
        assert!(last < 2_000, "the budget has no effect");
        // As somebody who talks, and not as fast as the machine can: what waits is counted once a second.
        tokio::time::sleep(PACE).await;
    };
    assert_eq!(refusal.code, ErrorCode::Degraded);
    assert!(refusal.retry_ms.is_some(), "{refusal:?}");
    // What is counted once in a while lets some more through, but not without bounds.
    assert!(last > 100 && last < 1_000, "{last} messages of {MESSAGE_BYTES} bytes in {BUDGET}");
    notice(&mut heard, NoticeCode::Degraded).await;

    // What is not kept goes on, and reads too.
    let passing = Message::new(Kind::new("game").unwrap(), mlms_client::protocol::Body::text("on we play"));
    assert_eq!(ann.send(&lobby, passing).await.unwrap(), None);
    let hears =
        async { while !matches!(ben_heard.recv().await, Some(Incoming::Event(Event::Message(_)))) {} };
    tokio::time::timeout(PATIENCE, hears).await.expect("ben hears what is not kept");
    let page = History { before: None, after: None, limit: 5 };
    assert_eq!(ann.history(&lobby, page).await.unwrap().0.last().unwrap().seq, taken[taken.len() - 1].seq);

    // The database is back: everything drains by itself, and what was refused is taken once.
    fleet.servers().mariadb.launch().await;
    notice(&mut heard, NoticeCode::Recovered).await;
    for number in last..last + 20 {
        taken.push(insist(&ann, &lobby, number).await.0);
    }
    let dup = ann.send(&lobby, message(last + 19)).await.unwrap().unwrap();
    assert_eq!((dup.seq, dup.dup), (taken[taken.len() - 1].seq, true));

    // Nothing was dropped: every message that was taken stands in the database and went out.
    let through = taken[taken.len() - 1].seq;
    let store = Store::open(&database_url).await.unwrap();
    let rows = rows(&store, &lobby, through).await;
    assert!(rows.iter().map(|event| event.seq.0).eq(1..=through.0), "gaps in the rows");
    for (number, sent) in taken.iter().enumerate() {
        let event = &rows[usize::try_from(sent.seq.0).unwrap() - 1];
        let Change::Message { nonce: Some(nonce), .. } = &event.change else { panic!("{event:?}") };
        assert_eq!(nonce.as_str(), format!("nonce-{number}"));
    }
    consumer.until(&format!("{lobby}/{through}")).await;

    // A row that the database refuses is set aside, with everything around it saved; it goes out all the same.
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON lobby_events FOR EACH ROW \
        BEGIN IF NEW.payload LIKE '%poison%' THEN SIGNAL SQLSTATE '99001'; END IF; END";
    run(&fleet.servers().mariadb.url("mlms"), trigger).await.unwrap();
    fleet.expected.push("the database refuses an event");
    let poisoned = ann.chat(&lobby, "poison").await.unwrap().seq;
    let after = ann.chat(&lobby, "all is well").await.unwrap().seq;
    let rows = crate::books::rows(&store, &lobby, after).await;
    assert!(rows.iter().all(|event| event.seq != poisoned), "the row was refused");
    assert_eq!(rows.last().unwrap().seq, after);
    assert_eq!(store.count_aside().await.unwrap(), 1);
    consumer.until(&format!("{lobby}/{poisoned}")).await;
    consumer.until(&format!("{lobby}/{after}")).await;
    drop((consumer, heard, ben_heard));
    ann.close().await;
    ben.close().await;
    fleet.stop().await;
    println!("{last} messages were taken before the first refusal");
}
