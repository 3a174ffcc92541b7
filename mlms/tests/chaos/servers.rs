//! MariaDB, RabbitMQ and Redis die, freeze, refuse and come back under load, alone and with everything else. Nobody
//! who talks waits for a server that only the archive needs, and afterwards all records agree.

use std::time::Duration;

use crate::books::{Consumer, agree};
use crate::deaths::after_an_ok;
use crate::fleet::Fleet;
use crate::story::{Fault, Story, my_turn, rounds};

/// How long a server is away, refuses, or takes nothing.
const AWAY: Duration = Duration::from_secs(3);
/// How long MariaDB is frozen.
const FROZEN: Duration = Duration::from_secs(10);
/// Power cuts that may hit nothing.
const VOIDS_MAX: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_dies_freezes_and_refuses_and_all_records_agree() {
    let turn = my_turn().await;
    let mut fleet = Fleet::with_servers(2, &[]).await;
    let consumer = Consumer::begin(fleet.servers().rabbitmq.url()).await;
    let mut story = Story::with("servers", fleet, turn).await;
    for _ in 0..rounds() {
        mariadb_is_away(&mut story).await;
        rabbitmq_is_away(&mut story).await;
        let mut voids = 0;
        while !everything_dies_at_once(&mut story).await {
            voids += 1;
            assert!(voids < VOIDS_MAX, "void: nobody came back into a gap and repeated a message");
            story.calm().await;
        }
    }
    let faults =
        ["mariadb_killed", "mariadb_frozen", "mariadb_read_only", "rabbitmq_killed", "rabbitmq_full"];
    let required = faults.map(|name| format!("fault:{name}"));
    let mut required: Vec<_> = required.iter().map(String::as_str).collect();
    required.extend(["fault:everything_killed", "owner_change", "resume_gap", "retried_nonce"]);
    let (mut fleet, heard, _turn) = story.judge(&required).await;
    let database_url = fleet.servers().database_url.clone();
    agree(&heard, &database_url, &consumer).await;
    drop(consumer);
    fleet.stop().await;
}

async fn mariadb_is_away(story: &mut Story) {
    let fault = story.fault("mariadb_killed");
    story.fleet.servers().mariadb.kill();
    missed(story, &fault, "mlms_archive_backlog_events", AWAY).await;
    story.fleet.servers().mariadb.launch().await;
    story.over(fault).await;

    let fault = story.fault("mariadb_frozen");
    story.fleet.servers().mariadb.signal("STOP");
    missed(story, &fault, "mlms_archive_backlog_events", FROZEN).await;
    story.fleet.servers().mariadb.signal("CONT");
    story.over(fault).await;

    let fault = story.fault("mariadb_read_only");
    story.fleet.servers().mariadb.execute("SET GLOBAL read_only = 1").await.unwrap();
    missed(story, &fault, "mlms_archive_backlog_events", AWAY).await;
    story.fleet.servers().mariadb.execute("SET GLOBAL read_only = 0").await.unwrap();
    story.over(fault).await;
}

async fn rabbitmq_is_away(story: &mut Story) {
    let fault = story.fault("rabbitmq_killed");
    story.fleet.servers().rabbitmq.kill();
    missed(story, &fault, "mlms_publish_backlog_entries", AWAY).await;
    story.fleet.servers().rabbitmq.launch().await;
    story.over(fault).await;

    let fault = story.fault("rabbitmq_full");
    story.fleet.servers().rabbitmq.control(&["set_vm_memory_high_watermark", "absolute", "1000"]);
    missed(story, &fault, "mlms_publish_backlog_entries", AWAY).await;
    story.fleet.servers().rabbitmq.control(&["set_vm_memory_high_watermark", "0.4"]);
    story.over(fault).await;
}

/// Every lobby talks on while the server is away, and what is said waits where an operator sees it.
async fn missed(story: &mut Story, fault: &Fault, backlog: &str, time: Duration) {
    tokio::time::sleep(time).await;
    let lobbies = story.crowd.lobbies.clone();
    story.recovered(fault, &lobbies).await;
    let waiting = story.fleet.metric(backlog).await;
    assert!(waiting > 0.0, "void: nothing waits for the server that is away");
    story.tell(&format!("{waiting} in {backlog}"));
}

/// A power cut: all servers and all processes, started again at the same moment. Tells whether it cut off messages on
/// their way: that is chance.
async fn everything_dies_at_once(story: &mut Story) -> bool {
    let lobbies = story.crowd.lobbies.clone();
    after_an_ok(story, &lobbies).await;
    let fault = story.fault("everything_killed");
    story.fleet.services().for_each(crate::service::Service::kill);
    story.fleet.redis.kill();
    let servers = story.fleet.servers();
    servers.mariadb.kill();
    servers.rabbitmq.kill();
    story.fleet.launch_everything().await;
    story.recovered(&fault, &lobbies).await;
    let caused = story.over(fault).await;
    assert!(caused.owner_changes > 0, "void: no lobby changed its owner");
    assert!(caused.reconnects > 0, "void: nobody lost a connection");
    caused.resume_gaps > 0 && caused.retried_nonces > 0
}
