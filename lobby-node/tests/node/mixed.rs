//! A fleet that rolls from a build that passes for the release before, and back: what it wrote is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mlms_checker::{Counts, Invoke, Options, Verdict, What};
use mlms_cluster::embedded::Faults;
use mlms_protocol::command::{History as Page, Position};
use mlms_protocol::{Answer, Command, Encoding, JoinStatus, Limits, LobbyCommand, LobbyId, Seq};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::fleet::{Fleet, Plan, lobby, node_name, user};
use crate::history::{History, entry, text};
use crate::older::aged;
use crate::player::{Place, Player, Role, note_page};
use crate::stories::no_rates;

const NODES: usize = 3;
/// The node of a mixed fleet that passes for one of the release before.
const OLDER: usize = 1;
/// Runs in which the links of one node are older, and how long players play in each.
const LINK_SEEDS: u64 = 4;
const PLAY: Duration = Duration::from_secs(30);

/// Restarts a node as one of this release or of the one before.
async fn roll(fleet: &Arc<Fleet>, faults: &Faults, node: usize, older: bool) {
    fleet.drain(node).await;
    faults.set_older(&node_name(node), older);
    fleet.start_node(node);
}

/// A member comes back to where it was, hears what it missed, and says something on each node in turn.
async fn talk(fleet: &Arc<Fleet>, lobby: &LobbyId, at: &mut Position, round: usize) {
    for node in 0..NODES {
        let mut ann = fleet.connect(node, "ann").await;
        let joined = ann.join_since(lobby, *at).await;
        assert_eq!(joined.status, JoinStatus::Resumed, "round {round}, node {node}");
        let seq = ann.chat(lobby, &format!("{round} on {node}")).await;
        at.seq = seq;
        at.epoch = ann.history(lobby, seq.0 - 1).await[0].epoch;
        ann.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_rolls_from_the_release_before_and_back() {
    let faults = Faults::seeded(1);
    for node in 0..NODES {
        faults.set_older(&node_name(node), true);
    }
    let plan = Plan { nodes: NODES, limits: no_rates(), faults: Some(faults.clone()), ..Plan::default() };
    let fleet = Fleet::start(plan).await;
    let hall = lobby("hall");
    let mut ann = fleet.connect(0, "ann").await;
    let joined = ann.join(&hall).await;
    let mut at = Position { epoch: joined.epoch, seq: joined.seq };
    ann.close().await;
    talk(&fleet, &hall, &mut at, 0).await;
    let mut round = 0;
    for older in [false, true] {
        for node in 0..NODES {
            // In between the fleet is mixed, and lobbies move both ways.
            roll(&fleet, &faults, node, older).await;
            round += 1;
            talk(&fleet, &hall, &mut at, round).await;
            fleet.move_lobby(&hall, round % NODES).await;
            // And one dies: the heir has only what it wrote.
            let owner = fleet.owner(&hall).unwrap();
            fleet.kill(owner);
            fleet.start_node(owner);
            talk(&fleet, &hall, &mut at, round).await;
        }
    }
    let mut reader = fleet.connect(0, "reader").await;
    reader.join(&hall).await;
    let events = reader.history(&hall, 0).await;
    let seqs: Vec<Seq> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).map(Seq).collect::<Vec<_>>());
    assert!(at.seq.0 >= 13 * NODES as u64, "{at:?}");
    for node in 0..NODES {
        assert_eq!(fleet.metric(node, "mlms_unreadable_total", None), 0.0, "node {node}");
    }
}

/// Players play on a fleet of which one node says no more to the others, and takes no more from them, than the release
/// before. Lobbies move to it and from it, and it leaves and comes back; what the players see is judged.
#[test]
fn links_with_a_node_of_the_release_before_keep_what_players_are_promised() {
    let mut left_out = BTreeMap::new();
    for seed in 0..LINK_SEEDS {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (history, counted) = runtime.block_on(play(seed));
        let report = history.judge(&Options::default());
        assert_eq!(report.verdict(), Verdict::Passed, "seed {seed}\n{report}");
        let Counts { acked, unsequenced, history_reads, .. } = report.counts;
        assert!(acked > 50 && unsequenced > 50 && history_reads > 0, "seed {seed}: {:?}", report.counts);
        for (field, count) in counted {
            *left_out.entry(field).or_default() += count;
        }
    }
    // Every field that came since was left out, or the runs show nothing.
    let fields: Vec<&String> =
        left_out.iter().filter(|(_, count): &(_, &u64)| **count > 0).map(|(field, _)| field).collect();
    assert_eq!(fields, ["Attach.joining", "Command.after", "Command.epoch", "Command.of", "Moved.epoch"]);
}

async fn play(seed: u64) -> (Arc<History>, BTreeMap<String, u64>) {
    let (history, faults) = (Arc::new(History::new()), Faults::seeded(seed));
    let left_out: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let counted = Arc::clone(&left_out);
    faults.set_older(&node_name(OLDER), true);
    faults.relay().set_older([node_name(OLDER)], move |message, writes| {
        aged(message, writes, &mut counted.lock().unwrap())
    });
    let limits = Limits { joins_per_s: 0, ..no_rates() };
    let plan = Plan { nodes: NODES, limits, faults: Some(faults), ..Plan::default() };
    let fleet = Fleet::start(plan).await;
    let places: Vec<_> = (0..4)
        .map(|number| Place { lobby: lobby(&format!("mixed-{seed}-{number}")), capacity: None })
        .collect();
    let users: Vec<_> = (0..8).map(|number| user(&format!("user-{number}"))).collect();
    let end = Instant::now() + PLAY;
    let mut playing = JoinSet::new();
    for (number, user) in users.iter().enumerate() {
        let role = Role {
            name: format!("player-{number}"),
            user: user.clone(),
            encoding: Encoding::ALL[number % 2],
            seed: seed * 100 + number as u64,
            nodes: NODES,
            places: places.clone(),
            users: users.clone(),
            closes: false,
        };
        let player = Player::new(role, Arc::clone(&fleet), Arc::clone(&history), None);
        playing.spawn(player.play(end, end + PLAY));
    }
    let mut round = 0;
    while Instant::now() + Duration::from_secs(2) < end {
        tokio::time::sleep(Duration::from_millis(700)).await;
        // Each lobby in turn, to each node in turn.
        fleet.move_lobby(&places[round % places.len()].lobby, (round / places.len()) % NODES).await;
        round += 1;
        if round % 9 == 0 {
            fleet.drain(OLDER).await;
            fleet.start_node(OLDER);
        }
    }
    while let Some(played) = playing.join_next().await {
        played.unwrap();
    }
    read_all(&fleet, &history, &places).await;
    for node in 0..NODES {
        assert_eq!(fleet.metric(node, "mlms_unreadable_total", None), 0.0, "node {node}");
    }
    fleet.kill_all();
    let counted = left_out.lock().unwrap().clone();
    (history, counted)
}

/// Reads every lobby to its end, against which all is judged.
async fn read_all(fleet: &Fleet, history: &History, places: &[Place]) {
    let mut line = fleet.connect(0, "reader").await;
    history.note("reader", What::Connected { user: text("reader") });
    for (Place { lobby, .. }, call) in places.iter().zip(1..) {
        let invoke = Invoke { call, op: text("join"), lobby: text(lobby), ..Invoke::default() };
        history.note("reader", What::Invoke(invoke));
        let joined = line.join(lobby).await;
        history.note("reader", What::Joined(entry(Some(call), &joined)));
        let (mut after, mut more) = (0, true);
        while more {
            let started = history.note("", What::Fault { name: text("none"), for_us: 0 });
            let page = Page { before: None, after: Some(Seq(after)), limit: 200 };
            let command = Command::Lobby(lobby.clone(), LobbyCommand::History(page));
            let Ok(Answer::History { events, more: is_more }) = line.ask(command, None).await else {
                panic!("{lobby} cannot be read");
            };
            note_page(history, lobby, started, after, is_more, true, &events);
            after = events.last().map_or(after, |event| event.seq.0);
            more = is_more;
        }
    }
    line.close().await;
}
