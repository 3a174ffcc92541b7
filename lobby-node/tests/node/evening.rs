//! Stories of a fleet that has grown: lobbies and sessions spread by themselves, and nobody loses anything.

use std::time::Duration;

use mlms_protocol::placement::nodes_for_user;
use mlms_protocol::{Event, Reconnect};

use crate::fleet::{Fleet, Plan, lobby, node_name, user};
use crate::stories::no_rates;

/// Longer than the fleet takes to be sure of a new node and to even out.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_new_node_gets_its_share_of_the_lobbies() {
    let fleet = Fleet::start(Plan { nodes: 3, limits: no_rates(), ..Plan::default() }).await;
    fleet.drain(2).await;
    let lobbies: Vec<_> = (0..30).map(|number| lobby(&format!("evening-{number}"))).collect();
    let mut ann = fleet.connect(0, "ann").await;
    let mut before = Vec::new();
    for lobby in &lobbies {
        ann.join(lobby).await;
        before.push(ann.chat(lobby, "before").await);
    }
    let count = |node| lobbies.iter().filter(|lobby| fleet.owner(lobby) == Some(node)).count();
    assert_eq!((count(0) + count(1), count(2)), (30, 0));
    fleet.start_node(2);
    ann.stay(LONG).await;
    let counts = [count(0), count(1), count(2)];
    assert_eq!(counts.iter().sum::<usize>(), 30);
    assert!(counts.iter().all(|count| *count <= 13), "nobody has far more than the mean: {counts:?}");
    assert!(counts[2] >= 4, "the new node has its share: {counts:?}");
    for (lobby, before) in lobbies.iter().zip(before) {
        assert_eq!(ann.chat(lobby, "after").await, before.next());
    }
    // Even enough: nothing moves any more.
    let owners: Vec<_> = lobbies.iter().map(|lobby| fleet.owner(lobby)).collect();
    ann.stay(LONG).await;
    assert!(lobbies.iter().map(|lobby| fleet.owner(lobby)).eq(owners));
}

#[tokio::test(start_paused = true)]
async fn a_full_node_sheds_those_that_belong_to_an_emptier_one_the_silent_first() {
    // Nobody answers pings while another one is listened to.
    let heartbeat = Duration::from_secs(600);
    let fleet = Fleet::start(Plan { heartbeat, limits: no_rates(), ..Plan::default() }).await;
    let nodes = [node_name(0), node_name(1)];
    let (mut at_home, mut strangers) = (Vec::new(), Vec::new());
    let talked = lobby("talked");
    for name in (0..).map(|number| format!("user-{number}")) {
        let is_home = *nodes_for_user(&user(&name), nodes.iter())[0] == nodes[0];
        let group = if is_home { &mut at_home } else { &mut strangers };
        if group.len() < 12 {
            group.push(fleet.connect(0, &name).await);
        }
        if at_home.len() == 12 && strangers.len() == 12 {
            break;
        }
    }
    // All strangers have to go, one after the other: those who say nothing before the one who talks.
    let mut talker = strangers.remove(0);
    talker.join(&talked).await;
    let mut asked = 0;
    let talk = async {
        loop {
            let told = talker.ask(crate::line::chat(&talked, "I am here"), None).await;
            assert!(told.is_ok());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let shed = async {
        for line in &mut strangers {
            let bye = line.event_that(|event| matches!(event, Event::Bye { .. })).await;
            assert!(matches!(bye, Event::Bye { reconnect: Reconnect::Now, .. }), "{bye:?}");
            assert_eq!(line.close_code().await, Some(4001));
            asked += 1;
        }
    };
    tokio::select! {
        () = talk => unreachable!("it goes on for ever"),
        () = shed => {}
    }
    assert_eq!(asked, 11);
    for line in &mut at_home {
        line.stay(Duration::from_secs(20)).await;
    }
}
