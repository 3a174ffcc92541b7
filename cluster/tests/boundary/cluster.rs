//! The whole of it on a Redis Cluster, where keys of several shards are on several servers.

use std::time::Duration;

use crate::server::Cluster;

#[tokio::test]
async fn a_redis_cluster_does_as_one_server_does() {
    let cluster = Cluster::start().await;
    crate::journal::all_on(&cluster).await;
    crate::directory::all_on(&cluster).await;
    crate::relay::all_on(&cluster).await;
}

#[tokio::test]
async fn links_over_a_redis_cluster_deliver_everything_while_subscribers_are_cut_off() {
    let cluster = Cluster::start().await;
    crate::relay::cross(&cluster.url(), 10_000, async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.kill_subscribers();
    })
    .await;
}
