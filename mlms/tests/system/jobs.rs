//! The jobs of an operator, run as a scheduler runs them: idle lobbies are closed through the running service, old
//! history is purged in steps, and what is damaged is found.

use std::process::Output;

use mlms_protocol::Role;
use mlms_test_servers::run as sql;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE, SECRET, mlms};

/// Runs a job beside the service; a secret or a token is given as a scheduler gives it.
async fn job(cluster: &Cluster, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = mlms(cluster.folder());
    command.arg("job").args(arguments).arg("--json").envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Lobbies in which nothing happened for three seconds are idle.
async fn close_idle(cluster: &Cluster, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let url = format!("ws://{}", cluster.address());
    let fixed = ["close-idle-lobbies", "--idle-for", "3s", "--url", &url];
    job(cluster, &[&fixed, arguments].concat(), environment).await
}

/// Waits until a dry run would close so many.
async fn until_idle(cluster: &Cluster, count: u64) {
    let began = Instant::now();
    loop {
        let output = close_idle(cluster, &["--dry-run"], &[]).await;
        if report(&output)["closed"] == count {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{output:?} instead of {count}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Somebody comes, says something, and leaves; the lobby leaves memory.
async fn abandoned(cluster: &Cluster, lobby: &str) {
    let mut ann = cluster.player_in("ann", lobby).await;
    ann.chat(lobby, "is anybody there?").await;
    ann.ask(json!({"op": "leave", "lobby": lobby})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_lobbies_are_closed_through_the_running_service_with_a_secret_or_a_token() {
    let mut cluster = Cluster::with(&[("MLMS_LOBBY_EMPTY_SECONDS", "0")]).await;
    for lobby in ["old", "older"] {
        abandoned(&cluster, lobby).await;
    }
    let mut ben = cluster.player_in("ben", "hall").await;
    until_idle(&cluster, 2).await;

    // Without a right to it nothing is closed, and the scheduler is told.
    let nobody = cluster.token("nobody");
    for (environment, complaint) in
        [(&[][..], "MLMS_JOB_TOKEN"), (&[("MLMS_JOB_TOKEN", nobody.as_str())][..], "could not be closed")]
    {
        let output = close_idle(&cluster, &[], environment).await;
        assert!(!output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(complaint), "{complaint} is missing in {said}");
    }
    let output = close_idle(&cluster, &[], &[("MLMS_JWT_HS256_SECRET", SECRET)]).await;
    let outcome = report(&output);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&outcome["closed"], &outcome["failed"]), (&json!(2), &json!(0)), "{outcome}");

    // A closed lobby is over; one in which somebody is goes on.
    let refusal = ben.ask(json!({"op": "join", "lobby": "old"})).await.unwrap_err();
    assert!(["lobby_closed", "not_found"].contains(&refusal["code"].as_str().unwrap()), "{refusal}");
    ben.chat("hall", "still here").await;

    // Run again it has nothing to do; with a token it needs no secret.
    let admin = cluster.token_with("operator", &[Role::Admin], Duration::from_secs(60));
    let token = [("MLMS_JOB_TOKEN", admin.as_str())];
    let output = close_idle(&cluster, &[], &token).await;
    assert_eq!((output.status.success(), &report(&output)["closed"]), (true, &json!(0)), "{output:?}");
    abandoned(&cluster, "third").await;
    until_idle(&cluster, 1).await;
    let output = close_idle(&cluster, &[], &token).await;
    assert_eq!((output.status.success(), &report(&output)["closed"]), (true, &json!(1)), "{output:?}");
    drop(ben);
    cluster.stop().await;
}

/// What the check of the integrity finds, by kind of problem.
async fn problems(cluster: &Cluster) -> Vec<(String, String)> {
    let output = job(cluster, &["check-integrity"], &[]).await;
    let outcome = report(&output);
    let listed = outcome["listed"].as_array().unwrap();
    assert_eq!(output.status.success(), listed.is_empty(), "{output:?}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    listed.iter().map(|found| (text(&found["problem"]), text(&found["lobby"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_history_is_purged_in_steps_and_damage_is_found() {
    let mut cluster = Cluster::with(&[("MLMS_LOBBY_EMPTY_SECONDS", "0")]).await;
    let server = cluster.token_with("referee", &[Role::Server], Duration::from_secs(600));
    for lobby in ["arena-a", "arena-b", "arena-c"] {
        let mut referee = cluster.open(&format!("/ws?token={server}"), &[]).await.unwrap();
        referee.join(lobby).await;
        for _ in 0..2 {
            referee.ask(json!({"op": "start", "lobby": lobby})).await.unwrap();
            let report =
                json!({"op": "report", "lobby": lobby, "stat": "damage", "amount": 7, "user": "referee"});
            referee.ask(report).await.unwrap();
            referee.ask(json!({"op": "finish", "lobby": lobby})).await.unwrap();
            referee.chat(lobby, "well played").await;
        }
        referee.ask(json!({"op": "leave", "lobby": lobby})).await.unwrap();
    }
    // Three lobbies of 12 events: joined as host, two games of started, reported, finished and a message, left without
    // a host.
    cluster.until_metric("mlms_archive_events_total", "", 36.0).await;
    let purge = async |arguments: &[&str]| {
        let output =
            job(&cluster, &[&["purge-history", "--older-than", "1s"], arguments].concat(), &[]).await;
        assert!(output.status.success(), "{output:?}");
        report(&output)
    };
    assert_eq!(problems(&cluster).await, []);
    // All of them but two reports and two ends of games a lobby, as soon as they are a second old.
    let began = Instant::now();
    while purge(&["--dry-run"]).await["events"] != 24 {
        assert!(began.elapsed() < PATIENCE, "{}", purge(&["--dry-run"]).await);
    }
    // Cut off and run again: from behind a lobby, then all that is left, then nothing.
    assert_eq!(purge(&["--after", "arena-b"]).await["events"], 8);
    assert_eq!(purge(&[]).await["events"], 16);
    assert_eq!(purge(&[]).await["events"], 0);
    // What counts for players is still there, and no gap is reported.
    assert_eq!(problems(&cluster).await, []);
    cluster.stop().await;

    let database = format!("sqlite://{}", cluster.folder().path().join("data/mlms.db").display());
    for (statement, problem) in [
        ("DELETE FROM lobby_events WHERE lobby = 'arena-a'", ("statistics_without_events", "arena-a")),
        (
            "UPDATE lobby_events SET epoch = 0 WHERE lobby = 'arena-b' AND seq = 8",
            ("epoch_goes_back", "arena-b"),
        ),
        ("DELETE FROM purged_lobbies WHERE lobby = 'arena-c'", ("gap", "arena-c")),
        (
            "UPDATE folded_lobbies SET seq = 99 WHERE lobby = 'arena-c'",
            ("counted_ahead_of_events", "arena-c"),
        ),
        ("UPDATE lobby_snapshots SET seq = 99 WHERE lobby = 'arena-c'", ("state_ahead_of_events", "arena-c")),
        ("UPDATE player_statistics SET total = total + 1", ("statistics_do_not_add_up", "")),
    ] {
        sql(&database, statement).await.unwrap();
        let found = problems(&cluster).await;
        let wanted = (problem.0.to_owned(), problem.1.to_owned());
        assert!(found.contains(&wanted), "{wanted:?} is not among {found:?}");
    }
    // Resumed behind the lobbies, only what belongs to none is looked at.
    let output = job(&cluster, &["check-integrity", "--after", "arena-c"], &[]).await;
    assert_eq!(report(&output)["lobbies"], 0, "{output:?}");
}
