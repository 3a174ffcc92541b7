//! What an operator sees of a fleet, and how it is stopped without a signal.

use std::process::Command;

use mlms_client::protocol::LobbyId;
use mlms_client::protocol::command::Join;
use mlms_client::{Client, Options};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::service::{GLANCE, PATIENCE, ask, get};

fn status(fleet: &Fleet, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlms"));
    command.args(["cluster", "status"]).args(arguments);
    command.env("MLMS_REDIS_URL", fleet.redis.url()).env("MLMS_REDIS_PREFIX", "mlms:");
    let output = command.current_dir(fleet.folder()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn status_json(fleet: &Fleet) -> Value {
    serde_json::from_str(&status(fleet, &["--json"])).unwrap()
}

async fn route(port: u16, lobby: &str) -> Value {
    let (status, body) = get(port, &format!("/debug/route?lobby={lobby}")).await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_nodes_shards_and_routes_and_drains() {
    let mut fleet = Fleet::start(2, 1).await;
    let options = Options { connector: fleet.door(0), ..Options::new("ws://fleet", fleet.token("ann")) };
    let (ann, _events) = Client::connect(options).unwrap();
    let lobby = LobbyId::new("lounge").unwrap();
    ann.join(&lobby, Join { create: Some(Default::default()), ..Join::default() }).await.unwrap();
    ann.chat(&lobby, "hello").await.unwrap();

    let seen = status_json(&fleet);
    let nodes = seen["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().map(|node| &node["name"]).collect::<Vec<_>>(), ["node-1", "node-2"], "{seen}");
    assert!(nodes.iter().all(|node| node["state"] == "ready"), "{seen}");
    assert_eq!((&seen["shards"]["total"], &seen["shards"]["owned"]), (&json!(512), &json!(1)), "{seen}");
    assert!(seen["shards"]["journal_entries"].as_u64().unwrap() >= 2, "{seen}");
    let owner = seen["owners"][0]["node"].as_str().unwrap().to_owned();
    assert_eq!((&seen["owners"][0]["epoch"], &seen["owners"][0]["stand"]), (&json!(1), &json!("owned")));

    // Broker and nodes say the same.
    for port in [fleet.brokers[0].admin_port, fleet.nodes[0].admin_port, fleet.nodes[1].admin_port] {
        let route = route(port, "lounge").await;
        assert_eq!((&route["lobby"], &route["node"]), (&json!("lounge"), &json!(owner)), "{route}");
        assert_eq!((&route["epoch"], &route["shard"]), (&json!(1), &seen["owners"][0]["shard"]), "{route}");
        assert_eq!(route["why"], format!("{owner} owns it"));
    }
    // What the nodes do; a broker has none of it.
    let mut served = Vec::new();
    for node in &fleet.nodes {
        let (status, body) = get(node.admin_port, "/debug/node").await.unwrap();
        assert_eq!(status, 200, "{body}");
        let seen: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(seen["nodes"][0]["node"], json!(node.name), "{seen}");
        served.extend(seen["nodes"][0]["shards"].as_array().unwrap().iter().map(|shard| {
            (node.name.clone(), shard["shard"].clone(), shard["state"].clone(), shard["epoch"].clone())
        }));
    }
    let shard = seen["owners"][0]["shard"].clone();
    assert_eq!(served, [(owner.clone(), shard, json!("serving"), json!(1))]);
    assert_eq!(get(fleet.brokers[0].admin_port, "/debug/node").await.unwrap().0, 404);
    for wrong in ["/debug/route", "/debug/route?lobby=no%20spaces"] {
        assert_eq!(get(fleet.nodes[0].admin_port, wrong).await.unwrap().0, 400, "{wrong}");
    }
    let text = status(&fleet, &["--shards"]);
    for part in [
        "unarchived",
        "unacknowledged",
        "no shard is on its way to another node",
        "node-1",
        "node-2",
        "ready",
        "1 of 512 shards have an owner",
        "shard",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }

    // The owner dies: its shard is shown as an orphan until somebody asks for one of its lobbies.
    ann.close().await;
    let place = fleet.nodes.iter().position(|node| node.name == owner).unwrap();
    let other = 1 - place;
    fleet.nodes[place].kill();
    let began = Instant::now();
    while status_json(&fleet)["shards"]["orphaned"] != 1 {
        assert!(began.elapsed() < PATIENCE, "{}", status_json(&fleet));
        tokio::time::sleep(10 * GLANCE).await;
    }
    let heir = fleet.nodes[other].name.clone();
    let text = status(&fleet, &[]);
    assert!(text.contains(&format!("its owner is gone; {heir} claims it on demand")), "{text}");
    let route = route(fleet.brokers[0].admin_port, "lounge").await;
    assert_eq!(route["node"], json!(heir), "{route}");
    assert!(route["why"].as_str().unwrap().contains("lease is gone"), "{route}");

    let (status, _) = ask("POST", fleet.nodes[other].admin_port, "/admin/drain").await.unwrap();
    assert_eq!(status, 202);
    assert!(fleet.nodes[other].ended().await.success());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_a_move_that_does_not_come_to_its_end() {
    let mut fleet = Fleet::start_with(2, 1, &[("MLMS_DRAIN_SECONDS", "30")]).await;
    let (ann, _events) = fleet.enter("ann").await;
    let lobby = LobbyId::new("lounge").unwrap();
    ann.join(&lobby, Join { create: Some(Default::default()), ..Join::default() }).await.unwrap();
    ann.chat(&lobby, "hello").await.unwrap();
    ann.close().await;
    let seen = status_json(&fleet);
    let (owner, shard) = (seen["owners"][0]["node"].clone(), seen["owners"][0]["shard"].clone());
    let place = fleet.nodes.iter().position(|node| owner == json!(node.name)).unwrap();
    let heir = 1 - place;

    // The node that is to take the shard does not turn.
    fleet.nodes[heir].signal("STOP");
    assert_eq!(ask("POST", fleet.nodes[place].admin_port, "/admin/drain").await.unwrap().0, 202);
    let began = Instant::now();
    let seen = loop {
        let seen = status_json(&fleet);
        if seen["moves"] != json!([]) {
            break seen;
        }
        assert!(began.elapsed() < PATIENCE, "{seen}");
        tokio::time::sleep(GLANCE).await;
    };
    let to = fleet.nodes[heir].name.clone();
    assert_eq!(seen["moves"], json!([{ "shard": shard, "from": owner, "to": to, "epoch": 1 }]));
    let text = status(&fleet, &[]);
    let line = format!("shard {shard} is on its way from {} to {to}.", owner.as_str().unwrap());
    assert!(text.contains(&line) || status_json(&fleet)["moves"] == json!([]), "{text}");
    fleet.nodes[heir].signal("CONT");
    assert!(fleet.nodes[place].ended().await.success());
    let (bob, _events) = fleet.enter("bob").await;
    bob.join(&lobby, Join::default()).await.unwrap();
    bob.close().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_is_the_newer_run_whatever_its_clock_says() {
    let mut fleet = Fleet::start(1, 1).await;
    let run = |seen: &Value| seen["nodes"][0]["incarnation"].as_u64().unwrap();
    // As if its clock had been an hour ahead.
    let former = run(&status_json(&fleet)) + 3_600_000_000;
    fleet.nodes[0].kill();
    assert_eq!(fleet.redis.ask(&format!("SET mlms:run:node-1 {former}")), "+OK");
    fleet.launch_node(0).await;
    let seen = status_json(&fleet);
    assert!(run(&seen) > former, "{seen}");
    fleet.stop().await;
}

#[tokio::test]
async fn a_look_at_a_redis_without_a_deployment_says_so_and_writes_nothing() {
    let redis = mlms_test_servers::Redis::start().await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlms"));
    command.args(["cluster", "status"]).env("MLMS_REDIS_URL", redis.url()).env("MLMS_REDIS_PREFIX", "else:");
    let output = command.current_dir(std::env::temp_dir()).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    assert!(error.contains("there is no MLMS") && error.contains("else:"), "{error}");
    assert_eq!(redis.ask("DBSIZE"), ":0");
}
