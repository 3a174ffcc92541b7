//! The binary as a command line tool: settings, tokens, and what it says when something is wrong.

use std::process::Output;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Folder, SECRET, folder, mlms};

fn run(folder: &Folder, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    mlms(folder).args(arguments).envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn every_mistake_of_a_configuration_is_told_at_once() {
    let folder = folder();
    let file = folder.path().join("mlms.toml");
    std::fs::write(&file, "listen = 7\nlisten_to = \"x\"\n[limits]\nchats_per_s = -1\n").unwrap();
    let environment = [
        ("MLMS_CONFIG", file.to_str().unwrap()),
        ("MLMS_DRAIN_SECONDS", "soon"),
        ("MLMS_LIMIT_FRAME_BYTES_MAX", "12"),
        ("MLMS_LIMT_CHATS_BURST", "5"),
        ("MLMS_CLUSTER_KEY", "tooshort"),
        ("MLMS_JWT_PUBLIC_KEY_FILE", "/no/such/key.pem"),
    ];
    for arguments in [&["standalone", "--set", "nonsense=1"][..], &["check-config", "--set", "nonsense=1"]] {
        let output = run(&folder, arguments, &environment);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let complaint = text(&output.stderr);
        for part in [
            "key listen",
            "listen_to",
            "chats_per_s",
            "MLMS_DRAIN_SECONDS",
            "MLMS_LIMIT_FRAME_BYTES_MAX",
            "MLMS_LIMT_CHATS_BURST",
            "MLMS_CLUSTER_KEY",
            "/no/such/key.pem",
            "nonsense",
        ] {
            assert!(complaint.contains(part), "{part} is missing in {complaint}");
        }
        assert!(!complaint.contains("tooshort"), "a secret is quoted");
        assert_eq!(text(&output.stdout), "");
        assert!(!folder.path().join("data").exists(), "nothing was begun");
    }
}

#[test]
fn flags_outweigh_the_environment_and_that_outweighs_the_file() {
    let folder = folder();
    std::fs::write(
        folder.path().join("mlms.toml"),
        "drain_seconds = 1\nheartbeat_ms = 1000\nguests = false\n",
    )
    .unwrap();
    let arguments = ["check-config", "--config", "mlms.toml", "--set", "heartbeat_ms=3000"];
    let environment =
        [("MLMS_DRAIN_SECONDS", "2"), ("MLMS_HEARTBEAT_MS", "2000"), ("MLMS_JWT_HS256_SECRET", SECRET)];
    let output = run(&folder, &arguments, &environment);
    assert!(output.status.success(), "{output:?}");
    let shown: toml::Table = text(&output.stdout).parse().unwrap();
    assert_eq!(shown["drain_seconds"].as_integer(), Some(2));
    assert_eq!(shown["heartbeat_ms"].as_integer(), Some(3_000));
    assert_eq!(shown["guests"].as_bool(), Some(false));
    assert!(!text(&output.stdout).contains(SECRET));
}

#[test]
fn the_default_configuration_is_a_valid_one_and_changes_nothing() {
    let folder = folder();
    let default = run(&folder, &["default-config"], &[]);
    assert!(default.status.success());
    std::fs::write(folder.path().join("default.toml"), &default.stdout).unwrap();
    let with_file = run(&folder, &["check-config", "--config", "default.toml"], &[]);
    let without = run(&folder, &["check-config"], &[]);
    assert!(with_file.status.success() && without.status.success(), "{with_file:?} {without:?}");
    assert_eq!(text(&with_file.stdout), text(&without.stdout));
    // What a fleet needs is missed, all of it.
    for (role, parts) in [
        ("broker", &["MLMS_REDIS_URL", "MLMS_CLUSTER_KEY", "MLMS_JWT_HS256_SECRET"][..]),
        ("lobby-node", &["MLMS_REDIS_URL", "MLMS_CLUSTER_KEY", "MLMS_DATABASE_URL"]),
    ] {
        let output = run(&folder, &["check-config", "--role", role], &[]);
        assert_eq!(output.status.code(), Some(2), "{role}");
        for part in parts {
            assert!(
                text(&output.stderr).contains(part),
                "{role}: {part} is missing in {}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn version_and_help_answer_and_nonsense_is_refused() {
    let folder = folder();
    let version = run(&folder, &["version"], &[]);
    assert_eq!(text(&version.stdout), format!("mlms {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&folder, &["--help"], &[]);
    for command in ["standalone", "token", "check-config", "default-config", "version"] {
        assert!(text(&help.stdout).contains(command), "{command}");
    }
    for nonsense in [
        &["fly"][..],
        &["token"],
        &["token", "--user", "a", "--guest", "b"],
        &["token", "--user", "a", "--ttl", "1 year"],
    ] {
        let output = run(&folder, nonsense, &[]);
        assert_eq!(output.status.code(), Some(2), "{nonsense:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
}

fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.trim().split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_of_the_tool_says_who_for_how_long_and_with_which_roles() {
    let mut cluster = Cluster::start().await;
    let secret = [("MLMS_JWT_HS256_SECRET", SECRET)];
    let token = |arguments: &[&str]| {
        let output = run(cluster.folder(), &[&["token"], arguments].concat(), &secret);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim().to_owned()
    };
    let ann = token(&[
        "--user",
        "ann",
        "--name",
        "Ann of the North",
        "--role",
        "moderator",
        "--role",
        "server",
        "--ttl",
        "2h",
    ]);
    let said = claims(&ann);
    assert_eq!((&said["sub"], &said["name"]), (&json!("ann"), &json!("Ann of the North")));
    assert_eq!(said["roles"], json!(["moderator", "server"]));
    assert_eq!(said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap(), 7_200);
    let mut player = cluster.open(&format!("/ws?lobby=hall&token={ann}"), &[]).await.unwrap();
    assert_eq!(player.user(), "ann");
    assert_eq!(player.event("snapshot").await["state"]["members"][0]["name"], "Ann of the North");
    let guest = token(&["--guest", "Gus"]);
    assert!(claims(&guest)["sub"].as_str().unwrap().starts_with("guest-"));
    let mut gus = cluster.open(&format!("/ws?lobby=hall&token={guest}"), &[]).await.unwrap();
    gus.event("snapshot").await;
    // A moderator may close what is not theirs; a short token ends its session.
    let short = token(&["--user", "short", "--ttl", "1s"]);
    let mut short = cluster.open(&format!("/ws?token={short}"), &[]).await.unwrap();
    assert_eq!(short.closed().await.code, Some(4005));
    drop((player, gus));
    cluster.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_the_setting() {
    let mut cluster = Cluster::start().await;
    let folder = folder();
    let output =
        run(&folder, &[], &[("MLMS_LISTEN", &cluster.address()), ("MLMS_ADMIN_LISTEN", "127.0.0.1:0")]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains(&cluster.address()) && complaint.contains("`listen`"), "{complaint}");
    cluster.stop().await;
}

#[tokio::test]
async fn health_and_metrics_tell_how_the_service_is() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "hall").await;
    ann.chat("hall", "hello").await;
    let (status, health) = cluster.request("GET", "/health", &[], "").await;
    assert_eq!((status, &health["state"], &health["ready"]), (200, &json!("ok"), &json!(true)), "{health}");
    assert_eq!(health["nodes"].as_array().unwrap().len(), 2, "{health}");
    for (name, label, value) in [
        ("mlms_sessions", "", 1.0),
        ("mlms_messages_total", "durable", 1.0),
        ("mlms_broker_connections", "", 1.0),
        ("mlms_broker_handshakes_total", "accepted", 1.0),
    ] {
        assert_eq!(cluster.metric(name, label).await, value, "{name}");
    }
    assert!(cluster.metric("mlms_deliveries_total", "durable").await >= 1.0);
    cluster.until_metric("mlms_lobbies", "", 1.0).await;
    cluster.until_metric("mlms_archive_events_total", "", 1.0).await;
    drop(ann);
    cluster.stop().await;
}
