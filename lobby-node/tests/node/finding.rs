//! Finding lobbies and quick matches, over two nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use mlms_protocol::command::{Find, Join, Update};
use mlms_protocol::lobby::Settings;
use mlms_protocol::reply::Joined;
use mlms_protocol::{Answer, Command, ErrorCode, LobbyCommand, LobbyId, Refusal};
use serde_json::{Value, json};

use crate::fleet::{Fleet, Plan, lobby};
use crate::line::Line;
use crate::stories::{no_rates, owned_by};

/// Long enough for the owners to publish and for the nodes to read.
const PUBLISHED: Duration = Duration::from_secs(3);

fn find(filter: Value, quick: Option<Value>) -> Command {
    Command::Find(Find { filter: filter.as_object().cloned(), quick, ..Find::default() })
}

async fn found(line: &mut Line, filter: Value) -> Vec<String> {
    match line.ask(find(filter, None), None).await.unwrap() {
        Answer::Found { lobbies, .. } => {
            lobbies.iter().map(|lobby| lobby["lobby"].as_str().unwrap().to_owned()).collect()
        }
        other => panic!("{other:?} is no list"),
    }
}

async fn quick(line: &mut Line, filter: Value, settings: Value) -> Result<Joined, Refusal> {
    match line.ask(find(filter, Some(settings)), None).await? {
        Answer::Joined(joined) => Ok(joined),
        other => panic!("{other:?} is no answer to a quick match"),
    }
}

async fn create(line: &mut Line, id: &str, settings: Value) -> LobbyId {
    let id = lobby(id);
    let settings = Settings::from_command(settings).unwrap();
    line.join_with(&id, Join { create: Some(settings), ..Join::default() }).await.unwrap();
    id
}

#[tokio::test(start_paused = true)]
async fn lobbies_are_found_on_every_node_and_gone_when_they_close_or_hide() {
    let fleet = Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await;
    let mut ann = fleet.connect(0, "ann").await;
    let mut bob = fleet.connect(1, "bob").await;
    create(&mut ann, "ice-1", json!({"metadata": {"map": "ice"}, "capacity": 2})).await;
    let second = create(&mut bob, "ice-2", json!({"metadata": {"map": "ice"}})).await;
    let third = create(&mut ann, "sand", json!({"metadata": {"map": "sand"}})).await;
    create(&mut ann, "hidden", json!({"metadata": {"map": "ice"}, "visibility": "unlisted"})).await;
    create(&mut ann, "secret", json!({"metadata": {"map": "ice"}, "visibility": "private"})).await;
    for line in [&mut ann, &mut bob] {
        line.stay(PUBLISHED).await;
        assert_eq!(found(line, json!({})).await, ["ice-1", "ice-2", "sand"]);
        assert_eq!(found(line, json!({"map": "ice"})).await, ["ice-1", "ice-2"]);
        assert_eq!(found(line, json!({"map": "ice", "$free": 2})).await, ["ice-2"]);
    }
    ann.ask(Command::Lobby(third, LobbyCommand::Close), None).await.unwrap();
    let settings = json!({"visibility": "private"});
    let hide = LobbyCommand::Update(Update { settings: settings.as_object().cloned(), ..Update::default() });
    bob.ask(Command::Lobby(second, hide), None).await.unwrap();
    for line in [&mut ann, &mut bob] {
        line.stay(PUBLISHED).await;
        assert_eq!(found(line, json!({})).await, ["ice-1"]);
    }
    let refusal = ann.ask(find(json!({"$age": 1}), None), None).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BadRequest);
}

#[tokio::test(start_paused = true)]
async fn a_dead_owners_lobbies_are_listed_no_longer_than_its_lease_and_again_by_their_heir() {
    let fleet = Fleet::start(Plan { limits: no_rates(), nodes: 3, ..Plan::default() }).await;
    let (lonely, ann) = owned_by(&fleet, 0).await;
    let (shared, host) = owned_by(&fleet, 0).await;
    let mut bob = fleet.connect(1, "bob").await;
    bob.join(&shared).await;
    let mut cat = fleet.connect(2, "cat").await;
    cat.stay(PUBLISHED).await;
    let listed = found(&mut cat, json!({})).await;
    assert!(listed.contains(&lonely.to_string()) && listed.contains(&shared.to_string()), "{listed:?}");
    drop((ann, host));
    fleet.kill(0);
    // Bob's node asks for his lobby's heir; nobody asks for the other one.
    cat.stay(Duration::from_secs(12)).await;
    let listed = found(&mut cat, json!({})).await;
    assert!(!listed.contains(&lonely.to_string()), "its owner is dead: {listed:?}");
    assert!(listed.contains(&shared.to_string()), "its heir lists it: {listed:?}");
    cat.join_with(&lonely, Join::default()).await.unwrap();
    cat.stay(PUBLISHED).await;
    assert!(found(&mut cat, json!({})).await.contains(&lonely.to_string()), "somebody owns it again");
}

#[tokio::test(start_paused = true)]
async fn a_quick_match_takes_the_fullest_lobby_that_has_room() {
    let fleet = Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await;
    let mut ann = fleet.connect(0, "ann").await;
    let mut bob = fleet.connect(1, "bob").await;
    let duel = json!({"metadata": {"mode": "duel"}, "capacity": 3});
    let one = create(&mut ann, "one", duel.clone()).await;
    create(&mut ann, "two", duel).await;
    bob.join(&one).await;
    let mut cat = fleet.connect(1, "cat").await;
    cat.stay(PUBLISHED).await;
    assert_eq!(quick(&mut cat, json!({"mode": "duel"}), json!(true)).await.unwrap().lobby, one);
    let mut dan = fleet.connect(1, "dan").await;
    // The list may not tell yet that it is full: then the owner does.
    let joined = quick(&mut dan, json!({"mode": "duel"}), json!(true)).await.unwrap();
    assert_eq!(joined.lobby.as_str(), "two");
    let new = quick(&mut dan, json!({"mode": "race"}), json!({"capacity": 2})).await.unwrap();
    let settings = new.state.unwrap().settings;
    assert_eq!((settings.capacity, &settings.metadata["mode"]), (Some(2), &json!("race")));
}

#[tokio::test(start_paused = true)]
async fn players_who_come_at_once_fill_lobbies_and_none_beyond_its_capacity() {
    let fleet = Fleet::start(Plan { limits: no_rates(), ..Plan::default() }).await;
    let mut coming = Vec::new();
    for number in 0..30 {
        let mut line = fleet.connect(number % 2, &format!("player-{number}")).await;
        coming.push(tokio::spawn(async move {
            let joined = quick(&mut line, json!({"mode": "duel"}), json!({"capacity": 4})).await.unwrap();
            (joined.lobby, line)
        }));
    }
    let (mut lines, mut filled) = (Vec::new(), BTreeMap::<LobbyId, u32>::new());
    for player in coming {
        let (lobby, line) = player.await.unwrap();
        *filled.entry(lobby).or_default() += 1;
        lines.push(line);
    }
    assert!(filled.values().all(|members| *members <= 4), "{filled:?}");
    assert_eq!(filled.len(), 8, "nobody is alone without need: {filled:?}");
}
