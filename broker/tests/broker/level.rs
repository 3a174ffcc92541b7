//! A broker that has more than its share.

use std::time::Duration;

use mlms_broker::BrokerConfig;

use crate::stage::Stage;

#[tokio::test]
async fn a_broker_far_above_the_mean_asks_some_to_come_again() {
    let config = BrokerConfig {
        // Two addresses: this broker, and one that is new and has nobody.
        peers: vec!["127.0.0.1:8080".to_owned(), "127.0.0.2:8080".to_owned()],
        level_every: Duration::from_millis(20),
        ..BrokerConfig::default()
    };
    let stage = Stage::with_config(config).await;
    let mut clients = Vec::new();
    for number in 0..12 {
        clients.push(stage.open(&format!("user-{number}")).await);
    }
    let leaving = stage.nodes[0].bye().await;
    assert_eq!((leaving.code, leaving.sessions.len(), leaving.window_ms), (4001, 1, [0, 20]));
    let listed: Vec<_> = stage.nodes[0].seen().into_iter().map(|seen| seen.ticket.session).collect();
    assert!(listed.contains(&leaving.sessions[0]));
    assert!(stage.readiness.is_ready(), "it goes on serving");
    stage.until_metric("mlms_broker_leveled_total", "", 1.0).await;
    drop(clients);
}

#[tokio::test]
async fn a_broker_that_knows_of_no_other_keeps_its_sessions() {
    for peers in [vec!["127.0.0.1:8080".to_owned()], vec!["nowhere.invalid:8080".to_owned()]] {
        let level_every = Duration::from_millis(1);
        let config = BrokerConfig { peers, level_every, ..BrokerConfig::default() };
        let stage = Stage::with_config(config).await;
        let mut clients = Vec::new();
        for number in 0..12 {
            clients.push(stage.open(&format!("user-{number}")).await);
        }
        assert_eq!((stage.nodes[0].byes(), stage.metric("mlms_broker_leveled_total", "")), (0, 0.0));
    }
}
