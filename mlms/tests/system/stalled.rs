//! The embedded journal's file is held by somebody else: what needs it is refused with a clear code, the rest goes on,
//! and everything returns by itself.

use serde_json::json;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::cluster::{Cluster, PATIENCE};
use crate::player::gapless;

async fn health(cluster: &Cluster, component: &str) -> String {
    let health = cluster.health().await;
    health["services"][component]["state"].as_str().unwrap_or_else(|| panic!("{health}")).to_owned()
}

#[tokio::test]
async fn a_journal_that_does_not_answer_degrades_and_comes_back() {
    let mut cluster = Cluster::start().await;
    cluster.expect_log("could not be written to the database");
    cluster.expect_log("a commit of the journal failed");
    cluster.expect_log("the journal does not answer");
    cluster.expect_log("cursors");
    cluster.expect_log("time to acquire exceeded slow threshold");
    let mut ann = cluster.player_in("ann", "den").await;
    let mut bob = cluster.player_in("bob", "den").await;
    ann.chat("den", "before").await;
    bob.hears("before").await;
    assert_eq!(health(&cluster, "journal").await, "ok");

    let file = SqliteConnectOptions::new().filename(cluster.folder().path().join("data/mlms.db"));
    let mut other = SqliteConnection::connect_with(&file).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();

    // One is under way, and gets its answer in the end; those behind it are refused meanwhile.
    let say = |text: &str| json!({"op": "send", "lobby": "den", "kind": "chat", "body": text});
    let waiting = ann.post(say("under way")).await;
    cluster.until_metric("mlms_degraded_shards", "", 1.0).await;
    let refusal = bob.ask(say("too early")).await.unwrap_err();
    assert_eq!(refusal["code"], "degraded", "{refusal}");
    assert!(refusal["retry_ms"].as_u64().unwrap() > 0);
    let read = bob.ask(json!({"op": "history", "lobby": "den", "limit": 10})).await.unwrap_err();
    assert_eq!(read["code"], "degraded", "{read}");
    bob.ask(json!({"op": "send", "lobby": "den", "kind": "game", "body": "a move"})).await.unwrap();
    bob.hears("a move").await;
    assert_eq!(health(&cluster, "journal").await, "degraded");

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let answer = ann.reply(waiting).await.unwrap();
    assert!(answer["seq"].is_u64(), "{answer}");
    let recovered = async {
        while health(&cluster, "journal").await != "ok" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, recovered).await.expect("the journal is well again");
    bob.chat("den", "after").await;
    ann.hears("after").await;
    let events = ann.whole_history("den").await;
    gapless(&events);
    let texts: Vec<_> = events.iter().filter_map(|event| event["body"].as_str()).collect();
    assert_eq!(texts, ["before", "under way", "after"]);
    other.close().await.unwrap();
    drop((ann, bob));
    cluster.stop().await;
}
