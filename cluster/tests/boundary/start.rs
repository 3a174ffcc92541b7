//! What a process does not start on.

use mlms_cluster::{ConnectError, Redis};

use crate::server;
use crate::stage::{connect, node};

async fn refusal(url: &str, prefix: &str) -> ConnectError {
    match Redis::connect(url, prefix).await {
        Ok(_) => panic!("it connected"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn an_address_that_nobody_serves_is_refused_by_name() {
    let mut server = server::start().await;
    server.kill();
    assert!(matches!(refusal(&server.url(), "").await, ConnectError::Unreachable(_)));
    assert!(matches!(refusal("http://", "").await, ConnectError::Address(_)));
    assert!(matches!(refusal(&server.url(), "a{b}").await, ConnectError::Prefix));
}

#[tokio::test]
async fn a_redis_that_may_throw_keys_away_is_refused() {
    let server = server::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let error = refusal(&server.url(), "").await;
    assert!(matches!(&error, ConnectError::Eviction(policy) if policy == "allkeys-lru"), "{error}");
    assert!(error.to_string().contains("noeviction"));
}

#[tokio::test]
async fn another_number_of_shards_is_refused_and_the_first_is_stored() {
    let server = server::start().await;
    connect(&server).await.end().await;
    assert_eq!(server.ask("STRLEN mlms:shards"), ":3");
    assert_eq!(server.ask("SET mlms:shards 64"), "+OK");
    let error = refusal(&server.url(), "mlms:").await;
    assert!(matches!(&error, ConnectError::ShardCount { stored } if stored == "64"), "{error}");
    // Another deployment on the same server.
    let (redis, task) = Redis::connect(&server.url(), "other:").await.unwrap();
    drop(redis);
    task.await;
}

#[tokio::test]
async fn who_only_looks_writes_nothing_and_says_where_nobody_is() {
    let server = server::start().await;
    let error = Redis::survey(&server.url(), "mlms:").await.unwrap_err();
    assert!(matches!(&error, ConnectError::Nobody(prefix) if prefix == "mlms:"), "{error}");
    assert_eq!(server.ask("DBSIZE"), ":0");
    connect(&server).await.end().await;
    let survey = Redis::survey(&server.url(), "mlms:").await.unwrap();
    assert!(survey.view.nodes.is_empty(), "a deployment without a node is one");
    let error = Redis::survey(&server.url(), "other:").await.unwrap_err();
    assert!(matches!(error, ConnectError::Nobody(_)), "{error}");
    assert_eq!(server.ask("DBSIZE"), ":1");
    assert_eq!(server.ask("SET mlms:shards 64"), "+OK");
    let error = Redis::survey(&server.url(), "mlms:").await.unwrap_err();
    assert!(matches!(error, ConnectError::ShardCount { .. }), "{error}");
}

#[tokio::test]
async fn an_emptied_redis_gets_the_number_of_shards_from_the_nodes_that_live() {
    let server = server::start().await;
    let process = connect(&server).await;
    process.directory.renew(&node("one", 1)).await.unwrap();
    assert_eq!(server.ask("FLUSHALL"), "+OK");
    process.directory.renew(&node("one", 1)).await.unwrap();
    assert_eq!(server.ask("STRLEN mlms:shards"), ":3");
    assert_eq!(server.ask("SET mlms:shards 64"), "+OK");
    process.directory.renew(&node("one", 1)).await.unwrap();
    assert_eq!(server.ask("STRLEN mlms:shards"), ":2", "what stands there stays");
    process.end().await;
}
