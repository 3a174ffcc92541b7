//! Automatic games of four over the protocol, counted by the service of its own over AMQP, against a calculation by
//! hand: statistics, awards, and everybody who is told of them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command as Process;

use mlms_client::protocol::command::Join;
use mlms_client::protocol::lobby::{Reporters, Settings};
use mlms_client::protocol::{Answer, Command, Event, LobbyCommand, LobbyId, UserId};
use mlms_client::{Client, Error, Events, Incoming, State};
use mlms_store::Store;
use mlms_test_servers::run;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::books::Consumer;
use crate::crowd::retry;
use crate::fleet::Fleet;
use crate::service::{GLANCE, PATIENCE, ask_as};
use crate::story::my_turn;

const LOBBIES: usize = 20;
const PLAYERS: usize = 40;
const GAMES: usize = 5;

/// What a player has done, added up by hand.
#[derive(Debug, Clone, Default, PartialEq)]
struct Sum {
    games: i64,
    reports: i64,
    damage: i64,
    highest: i64,
}

/// The four players of a lobby; the first is its host. Each plays in two lobbies.
fn team(lobby: usize) -> [usize; 4] {
    [0, 1, 2, 3].map(|seat| (lobby * 4 + seat) % PLAYERS)
}

/// What is reported of a player in one game: some reach 500, which is not enough, some 501.
fn damage(lobby: usize, game: usize, player: usize) -> Vec<i64> {
    match (lobby * 31 + game * 17 + player * 7) % 23 {
        0 => vec![200, 300],
        1 => vec![200, 301],
        2 => vec![501],
        3 => vec![600, -150],
        4 => Vec::new(),
        other => vec![(other as i64) * 11, 100],
    }
}

/// The calculation by hand.
fn calculate(games: usize) -> BTreeMap<String, Sum> {
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for lobby in 0..LOBBIES {
        for player in team(lobby) {
            let sum = sums.entry(name(player)).or_default();
            for game in 0..games {
                let hits = damage(lobby, game, player);
                sum.games += 1;
                sum.reports += hits.len() as i64;
                sum.damage += hits.iter().sum::<i64>();
                // A report counts as soon as it is made: one that takes some back comes too late.
                let mut so_far = 0;
                for hit in &hits {
                    so_far += hit;
                    sum.highest = sum.highest.max(so_far);
                }
            }
        }
    }
    sums
}

fn bruisers(sums: &BTreeMap<String, Sum>) -> BTreeSet<String> {
    sums.iter().filter(|(_, sum)| sum.highest > 500).map(|(name, _)| name.clone()).collect()
}

fn name(player: usize) -> String {
    format!("player-{player}")
}

fn lobby_of(lobby: usize) -> LobbyId {
    LobbyId::new(&format!("arena-{lobby}")).unwrap()
}

/// A command that is repeated until it is answered.
async fn command(client: &Client, lobby: &LobbyId, command: LobbyCommand) -> Answer {
    let began = Instant::now();
    loop {
        match client.request(Command::Lobby(lobby.clone(), command.clone()), None).await {
            Ok(answer) => return answer,
            Err(Error::Refused(refusal)) if refusal.retry_ms.is_some() && began.elapsed() < PATIENCE => {}
            Err(error) => panic!("{command:?} in {lobby}: {error}"),
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Plays some games of one lobby to their ends.
async fn play(clients: Vec<Client>, lobby: usize, games: std::ops::Range<usize>) {
    let (id, team) = (lobby_of(lobby), team(lobby));
    let host = &clients[team[0]];
    for game in games {
        command(host, &id, LobbyCommand::Start).await;
        for player in team {
            for amount in damage(lobby, game, player) {
                let stat = "damage".to_owned();
                // In every other lobby everybody reports for themselves.
                let (by, user) = match lobby % 2 {
                    0 => (host, Some(UserId::new(&name(player)).unwrap())),
                    _ => (&clients[player], None),
                };
                command(by, &id, LobbyCommand::Report { stat, amount, user }).await;
            }
        }
        command(host, &id, LobbyCommand::Finish { results: None }).await;
    }
}

async fn play_all(clients: &[Client], games: std::ops::Range<usize>) {
    let mut lobbies = JoinSet::new();
    for lobby in 0..LOBBIES {
        lobbies.spawn(play(clients.to_vec(), lobby, games.clone()));
    }
    while let Some(played) = lobbies.join_next().await {
        played.unwrap();
    }
}

/// Everybody comes, and every lobby fills.
async fn gather(fleet: &Fleet) -> (Vec<Client>, Vec<Events>) {
    let (mut clients, mut events) = (Vec::new(), Vec::new());
    for player in 0..PLAYERS {
        let (client, heard) = fleet.enter(&name(player)).await;
        clients.push(client);
        events.push(heard);
    }
    for lobby in 0..LOBBIES {
        let reports = if lobby % 2 == 0 { Reporters::Host } else { Reporters::Members };
        let settings = Settings { reports, ..Settings::default() };
        for player in team(lobby) {
            let id = lobby_of(lobby);
            let join = || Join { create: Some(settings.clone()), ..Join::default() };
            retry(|| async { clients[player].join(&id, join()).await.map(drop) }).await;
        }
    }
    (clients, events)
}

/// Waits until the brokers tell these statistics and achievements, exactly.
async fn told(fleet: &Fleet, sums: &BTreeMap<String, Sum>) {
    let (token, port) = (fleet.mint("reader", &[]), fleet.brokers[0].port);
    let ask = async |path: String| {
        let (status, body) = ask_as(Some(&token), "GET", port, &path).await.expect("the broker answers");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let began = Instant::now();
    for (user, sum) in sums {
        loop {
            let stats = ask(format!("/v1/players/{user}/stats")).await;
            let damage = &stats["stats"]["damage"];
            let number = |value: &Value| value.as_i64().unwrap_or_default();
            let found = Sum {
                games: number(&stats["games_finished"]),
                reports: number(&damage["count"]),
                damage: number(&damage["sum"]),
                highest: number(&damage["max_per_game"]),
            };
            let achieved = ask(format!("/v1/players/{user}/achievements")).await;
            let achieved = achieved["achievements"].as_array().unwrap();
            let achieved: Vec<_> =
                achieved.iter().map(|award| award["achievement"].as_str().unwrap()).collect();
            let earned = if sum.highest > 500 { &["bruiser"][..] } else { &[] };
            if found == *sum && achieved == earned {
                break;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{user}: {found:?} {achieved:?} instead of {sum:?} {earned:?}"
            );
            tokio::time::sleep(10 * GLANCE).await;
        }
    }
}

/// Runs `mlms replay` beside the service.
async fn replay(fleet: &Fleet, arguments: &[&str]) -> (BTreeSet<String>, Value) {
    let mut process = Process::new(env!("CARGO_BIN_EXE_mlms"));
    process.args(["replay", "--rule", "bruiser", "--json"]).args(arguments).envs(fleet.environment());
    process.current_dir(fleet.folder());
    let output = tokio::task::spawn_blocking(move || process.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let gained = report["gained"].as_array().unwrap();
    let gained = gained.iter().map(|player| player["user"].as_str().unwrap().to_owned()).collect();
    (gained, report)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_games_of_four_earn_exactly_what_a_calculation_says_and_a_replay_finds_it_again() {
    let _turn = my_turn().await;
    let mut fleet = Fleet::with_servers(2, &[]).await;
    let consumer = Consumer::begin(fleet.servers().rabbitmq.url()).await;
    let database_url = fleet.servers().database_url.clone();
    let (clients, mut events) = gather(&fleet).await;

    // In the middle of it the service that counts dies, and counts on when it is back.
    play_all(&clients, 0..2).await;
    fleet.achievements[0].kill();
    play_all(&clients, 2..GAMES).await;
    let folder = fleet.folder();
    fleet.achievements[0].launch(&folder).await;
    let sums = calculate(GAMES);
    assert_eq!(sums.values().map(|sum| sum.games).sum::<i64>(), 4 * 100, "a hundred games of four");
    told(&fleet, &sums).await;
    let earned = bruisers(&sums);
    assert!(earned.len() > 5 && earned.len() < PLAYERS - 5, "void: {earned:?}");

    // Each award went out once by its id, and reached the player's session, on whichever node.
    let mut nodes = BTreeSet::new();
    for user in &earned {
        let body = consumer.until(&format!("{user}/bruiser")).await;
        let message: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&message["kind"], &message["user"]), (&json!("achievement_awarded"), &json!(user)));
        assert_eq!(message["data"], json!({"achievement": "bruiser"}));
        let player = (0..PLAYERS).find(|player| name(*player) == *user).unwrap();
        hears_of_the_award(&mut events[player], user).await;
        if let State::Open { node, .. } = &*clients[player].state().borrow() {
            nodes.insert(node.to_string());
        }
    }
    assert_eq!(nodes.len(), 2, "void: all of them are on one node");
    let awards: BTreeSet<_> = consumer.taken().into_iter().map(|(id, _)| id).collect();
    let awards = awards.iter().filter_map(|id| id.strip_suffix("/bruiser").map(str::to_owned));
    assert_eq!(awards.collect::<BTreeSet<_>>(), earned);

    // Without the awards a replay finds the same players; the dry run changes nothing.
    run(&database_url, "DELETE FROM player_achievements").await.unwrap();
    let (found, report) = replay(&fleet, &["--dry-run"]).await;
    assert_eq!(found, earned, "{report}");
    for player in report["gained"].as_array().unwrap() {
        assert_eq!(player["value"], sums[player["user"].as_str().unwrap()].highest, "{player}");
    }
    let store = Store::open(&database_url).await.unwrap();
    let somebody = UserId::new(earned.first().unwrap()).unwrap();
    assert_eq!(store.awards(&somebody).await.unwrap(), [], "the dry run awards nothing");

    // For good, while everybody plays on: nobody is missed, and nothing counts twice.
    let more = play_all(&clients, GAMES..GAMES + 2);
    tokio::join!(more, replay(&fleet, &[]));
    told(&fleet, &calculate(GAMES + 2)).await;

    drop(consumer);
    for client in clients {
        client.close().await;
    }
    fleet.stop().await;
}

async fn hears_of_the_award(events: &mut Events, user: &str) {
    let hear = async {
        loop {
            let heard = events.recv().await.expect("the session lives");
            if let Incoming::Event(Event::Achievement { user: of, achievement, .. }) = heard {
                assert_eq!((of.as_str(), achievement.as_str()), (user, "bruiser"));
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, hear).await.expect("the player is told");
}
