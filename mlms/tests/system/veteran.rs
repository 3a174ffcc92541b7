//! A thousand games and one: who has finished more than a thousand is a veteran, who has finished a thousand is not.

use mlms_test_servers::run as sql;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::cluster::{Cluster, PATIENCE, mlms};
use crate::player::Player;

/// 7 times 143 are 1,001.
const LOBBIES: usize = 7;
const GAMES: usize = 143;

/// Plays a lobby's games; in the first lobby ben leaves before the last one.
async fn play(mut ann: Player, mut ben: Player, lobby: usize) {
    let id = format!("arena-{lobby}");
    ann.join(&id).await;
    ben.join(&id).await;
    for game in 1..=GAMES {
        if lobby == 0 && game == GAMES {
            ben.ask(json!({"op": "leave", "lobby": id})).await.unwrap();
        }
        for op in ["start", "finish"] {
            ann.ask(json!({"op": op, "lobby": id})).await.unwrap();
        }
        // What they hear of it is read and forgotten.
        ann.event("game_finished").await;
        ann.forget();
        if lobby != 0 || game != GAMES {
            ben.event("game_finished").await;
            ben.forget();
        }
    }
}

async fn replay(cluster: &Cluster, arguments: &[&str]) -> Value {
    let mut command = mlms(cluster.folder());
    command.args(["replay", "--rule", "veteran", "--json"]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let bar = String::from_utf8(output.stderr).unwrap();
    assert!(bar.contains("7/7 lobbies, 1001 events") && bar.contains("events/s"), "{bar}");
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn achievements(cluster: &Cluster, user: &str) -> Vec<String> {
    let bearer = format!("Bearer {}", cluster.token("reader"));
    let path = format!("/v1/players/{user}/achievements");
    let (status, answer) = cluster.request("GET", &path, &[("authorization", &bearer)], "").await;
    assert_eq!(status, 200, "{answer}");
    let awards = answer["achievements"].as_array().unwrap();
    awards.iter().map(|award| award["achievement"].as_str().unwrap().to_owned()).collect()
}

async fn until_achieved(cluster: &Cluster, user: &str) {
    let began = Instant::now();
    while achievements(cluster, user).await != ["veteran"] {
        assert!(began.elapsed() < PATIENCE, "{user} is never a veteran");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finished_1001_games_is_a_veteran_and_a_replay_finds_it_again() {
    let settings = [
        ("MLMS_LIMIT_COMMANDS_PER_S", "0"),
        ("MLMS_LIMIT_SESSIONS_PER_USER_MAX", "100"),
        ("MLMS_LIMIT_CREATES_PER_MINUTE", "0"),
    ];
    let mut cluster = Cluster::with(&settings).await;
    let mut watching = cluster.player("ann").await;
    let mut lobbies = JoinSet::new();
    for lobby in 0..LOBBIES {
        let (ann, ben) = (cluster.player("ann").await, cluster.player("ben").await);
        lobbies.spawn(play(ann, ben, lobby));
    }
    while let Some(played) = lobbies.join_next().await {
        played.unwrap();
    }
    let award = watching.event("achievement").await;
    assert_eq!((&award["user"], &award["achievement"]), (&json!("ann"), &json!("veteran")));
    until_achieved(&cluster, "ann").await;
    assert_eq!(achievements(&cluster, "ben").await, [""; 0], "a thousand games are not more than a thousand");

    let gained = json!([{"user": "ann", "value": 1_001}]);
    assert_eq!(replay(&cluster, &["--dry-run"]).await["gained"], json!([]), "she has it already");
    let database = format!("sqlite://{}", cluster.folder().path().join("data/mlms.db").display());
    sql(&database, "DELETE FROM player_achievements").await.unwrap();
    let dry = replay(&cluster, &["--dry-run"]).await;
    assert_eq!((&dry["gained"], &dry["events"]), (&gained, &json!(1_001)), "{dry}");
    assert_eq!(achievements(&cluster, "ann").await, [""; 0], "a dry run changes nothing");
    assert_eq!(replay(&cluster, &[]).await["gained"], gained);
    until_achieved(&cluster, "ann").await;
    // Told again, since it was given again.
    watching.event("achievement").await;
    assert_eq!(replay(&cluster, &[]).await["gained"], json!([]), "nobody gains it twice");
    cluster.stop().await;
}
