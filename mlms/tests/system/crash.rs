//! Power cuts: what was acknowledged is there afterwards, once.

use std::collections::HashMap;
use std::time::Duration;

use mlms_client::protocol::command::Join;
use mlms_client::protocol::{Change, Event, LobbyId, Seq};
use mlms_client::{Client, Events, Incoming, Options, Sent, TokenSource};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PATIENCE};
use crate::player::{gapless, seq};

const ROUNDS: usize = 3;
/// Messages between two kills, of all talkers together.
const SAID: f64 = 600.0;

#[tokio::test]
async fn a_repeated_nonce_is_known_after_a_kill() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "den").await;
    let say =
        |nonce: &str| json!({"op": "send", "lobby": "den", "kind": "chat", "body": "once", "nonce": nonce});
    let first = ann.ask(say("n-1")).await.unwrap();
    let again = ann.ask(say("n-1")).await.unwrap();
    assert_eq!((seq(&again), &again["dup"]), (seq(&first), &json!(true)));
    let second = ann.ask(say("n-2")).await.unwrap();
    assert_eq!(seq(&second), seq(&first) + 1);
    cluster.kill();
    cluster.launch().await;

    let mut ann = cluster.player("ann").await;
    let position = json!({"lobby": "den", "epoch": first["epoch"], "seq": first["seq"]});
    let resumed = ann.ask(json!({"op": "resume", "lobbies": [position]})).await.unwrap();
    assert_eq!(resumed["lobbies"][0]["status"], "resumed", "{resumed}");
    assert_eq!(resumed["lobbies"][0]["seq"], first["seq"]);
    assert_eq!(seq(&ann.hears("once").await), seq(&second));
    ann.event("caught_up").await;
    for (nonce, sent) in [("n-1", &first), ("n-2", &second)] {
        let again = ann.ask(say(nonce)).await.unwrap();
        assert_eq!((seq(&again), &again["dup"]), (seq(sent), &json!(true)), "{nonce}");
    }
    // The nonce is one of its user and its lobby.
    let mut bob = cluster.player_in("bob", "den").await;
    let of_bob = bob.ask(say("n-1")).await.unwrap();
    assert!(seq(&of_bob) > seq(&second) && of_bob.get("dup").is_none(), "{of_bob}");
    let events = ann.whole_history("den").await;
    assert_eq!(gapless(&events).0, 1);
    assert_eq!(events.iter().filter(|event| event["body"] == "once").count(), 3);
    drop((ann, bob));
    cluster.stop().await;
}

/// Sequenced events as they came: the seq, and the text of a message.
type Heard = Vec<(u64, Option<String>)>;

/// A player who talks without a pause, whatever happens to the service.
struct Talker {
    client: Client,
    talking: JoinHandle<Vec<(String, Sent)>>,
    listening: JoinHandle<Heard>,
}

impl Talker {
    /// Talks until it has been enough.
    async fn start(cluster: &Cluster, user: String, lobby: LobbyId, enough: CancellationToken) -> Talker {
        let token = TokenSource::fixed(cluster.token(&user));
        let (client, events) = Client::connect(Options {
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_millis(300),
            ..Options::new(format!("ws://{}", cluster.address()), token)
        })
        .unwrap();
        client.opened().await.unwrap();
        let listening = tokio::spawn(listen(events));
        client.join(&lobby, Join { create: Some(Default::default()), ..Join::default() }).await.unwrap();
        let speaker = client.clone();
        let talking = tokio::spawn(async move {
            let mut said = Vec::new();
            while !enough.is_cancelled() {
                let number = said.len();
                let text = format!("{user}: {number}");
                let sent =
                    speaker.chat(&lobby, &text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
                said.push((text, sent));
            }
            said
        });
        Talker { client, talking, listening }
    }
}

/// Every sequenced event of the one lobby, as it came, from the first position on.
async fn listen(mut events: Events) -> Heard {
    let mut heard: Heard = Vec::new();
    while let Some(incoming) = events.recv().await {
        match incoming {
            Incoming::Event(Event::Lobby(event)) => {
                let Seq(seq) = event.seq;
                if let Some((last, _)) = heard.last() {
                    assert_eq!(last + 1, seq, "a gap or a repeat");
                }
                let text = match event.change {
                    Change::Message { body, .. } => body.as_text(),
                    _ => None,
                };
                heard.push((seq, text));
            }
            Incoming::Joined(joined) => assert!(
                heard.is_empty() || joined.state.is_none(),
                "a position from before the kill was not resumed"
            ),
            Incoming::Ended { lobby, refusal } => panic!("{lobby}: {refusal:?}"),
            Incoming::Event(_) => {}
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_message_survives_kills_once_and_in_order() {
    let limits = [("MLMS_LIMIT_CHATS_PER_S", "0"), ("MLMS_LIMIT_COMMANDS_PER_S", "0")];
    let mut cluster = Cluster::with(&limits).await;
    // Three lobbies on several shards and both nodes, four talkers in each.
    let lobbies: Vec<LobbyId> = ["red", "green", "blue"].map(|id| LobbyId::new(id).unwrap()).into();
    let enough = CancellationToken::new();
    let mut talkers = Vec::new();
    for number in 0..12 {
        let lobby = lobbies[number % lobbies.len()].clone();
        let name = format!("talker-{number}");
        talkers.push((lobby.clone(), Talker::start(&cluster, name, lobby, enough.clone()).await));
    }
    for _ in 0..ROUNDS {
        // In the middle of the talk.
        cluster.until_metric("mlms_messages_total", "durable", SAID).await;
        cluster.kill();
        cluster.launch().await;
    }
    cluster.until_metric("mlms_messages_total", "durable", SAID).await;
    enough.cancel();
    let mut acknowledged: HashMap<LobbyId, Vec<(String, u64)>> = HashMap::new();
    let mut heard: HashMap<LobbyId, Vec<Heard>> = HashMap::new();
    for (lobby, talker) in talkers {
        let said = tokio::time::timeout(2 * PATIENCE, talker.talking).await.expect("all is said").unwrap();
        let said = said.into_iter().map(|(text, sent)| (text, sent.seq.0));
        acknowledged.entry(lobby.clone()).or_default().extend(said);
        talker.client.close().await;
        heard.entry(lobby).or_default().push(talker.listening.await.unwrap());
    }
    for lobby in &lobbies {
        let mut witness = cluster.player("witness").await;
        witness.join(lobby.as_str()).await;
        let events = witness.whole_history(lobby.as_str()).await;
        assert_eq!(gapless(&events).0, 1);
        let bodies: HashMap<u64, &Value> = events.iter().map(|event| (seq(event), &event["body"])).collect();
        let said = &acknowledged[lobby];
        for (text, number) in said {
            assert_eq!(bodies.get(number), Some(&&json!(text)), "{lobby} {number}");
        }
        let messages = events.iter().filter(|event| event["ev"] == "message").count();
        assert_eq!(messages, said.len(), "{lobby}: nothing twice, nothing that nobody said");
        for heard in &heard[lobby] {
            for (number, text) in heard {
                let body = bodies[number];
                assert_eq!(text.as_deref(), body.as_str(), "{lobby} {number}");
            }
        }
        drop(witness);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn ephemeral_says_so_and_forgets() {
    let mut cluster = Cluster::prepare(&[]);
    cluster.flag("--ephemeral");
    cluster.expect_log("memory only");
    cluster.launch().await;
    assert!(cluster.log().contains("live in memory only and are lost at the end"), "{}", cluster.log());
    let mut ann = cluster.player_in("ann", "den").await;
    let sent = ann.chat("den", "forget me").await;
    assert_eq!(ann.whole_history("den").await.last().unwrap()["body"], "forget me");
    assert!(!cluster.folder().path().join("data/mlms.db").exists());
    cluster.kill();
    cluster.launch().await;
    let mut ann = cluster.player("ann").await;
    let position = json!({"lobby": "den", "epoch": sent["epoch"], "seq": sent["seq"]});
    let resumed = ann.ask(json!({"op": "resume", "lobbies": [position]})).await.unwrap();
    assert_eq!(resumed["lobbies"][0]["err"]["code"], "not_found", "{resumed}");
    drop(ann);
    cluster.stop().await;
}

#[tokio::test]
async fn a_second_process_on_the_same_database_is_refused_clearly() {
    let mut cluster = Cluster::start().await;
    let second = crate::cluster::mlms(cluster.folder())
        .env("MLMS_LISTEN", "127.0.0.1:0")
        .env("MLMS_ADMIN_LISTEN", "127.0.0.1:0")
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert!(complaint.contains("mlms.db") && complaint.contains("another process"), "{complaint}");
    let mut ann = cluster.player_in("ann", "den").await;
    ann.chat("den", "the first one goes on").await;
    drop(ann);
    cluster.stop().await;
    // And the lock is gone with its holder.
    cluster.launch().await;
    cluster.stop().await;
}
