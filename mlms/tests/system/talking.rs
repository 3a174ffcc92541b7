//! The golden path: players who chat, in both encodings and over both nodes.

use mlms_client::protocol::command::Join;
use mlms_client::protocol::{Body, Change, Encoding, Event, Kind, LobbyId};
use mlms_client::{Client, Events, Incoming, Message, Options, TokenSource};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::player::{gapless, seq};

#[tokio::test]
async fn players_of_both_encodings_and_nodes_chat() {
    let mut cluster = Cluster::start().await;
    let mut players = Vec::new();
    for number in 0..8 {
        let encoding = if number % 2 == 0 { Encoding::Json } else { Encoding::Msgpack };
        let mut player = cluster.player_at("/ws", &format!("player-{number}"), encoding).await;
        player.join("lounge").await;
        players.push(player);
    }
    let nodes: std::collections::HashSet<_> =
        players.iter().map(|player| player.welcome["node"].to_string()).collect();
    assert_eq!(nodes.len(), 2, "eight users are placed on both nodes");

    let bodies = ["hello", "tabs\tand \"quotes\"", "héllo wörld 🎲", "</script>", "\u{7f}\u{2028}"];
    for (place, body) in bodies.iter().enumerate() {
        let ok = players[place].chat("lounge", body).await;
        assert_eq!(ok.get("dup"), None);
        let (user, number) = (players[place].user().to_owned(), seq(&ok));
        for player in &mut players {
            let heard = player.hears(body).await;
            assert_eq!(heard["from"], user);
            assert_eq!((seq(&heard), &heard["epoch"], &heard["at"]), (number, &ok["epoch"], &ok["at"]));
        }
    }
    // Everyone saw the same sequence, from the own join on.
    for player in &mut players {
        let events = player.whole_history("lounge").await;
        assert_eq!(gapless(&events).0, 1);
        let said: Vec<_> = events.iter().filter(|event| event["ev"] == "message").collect();
        assert_eq!(said.len(), bodies.len());
        assert!(said.iter().zip(bodies).all(|(event, body)| event["body"] == body));
    }
    drop(players);
    cluster.stop().await;
}

#[tokio::test]
async fn unsequenced_messages_reach_whom_they_are_for() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut bob = cluster.player_in("bob", "arena").await;
    let mut cid = cluster.player_at("/ws?lobby=arena", "cid", Encoding::Msgpack).await;
    cid.event("snapshot").await;
    let send = |to: Value, body: Value| {
        let mut command = json!({"op": "send", "lobby": "arena", "kind": "game", "body": body});
        if !to.is_null() {
            command["to"] = to;
        }
        command
    };
    // Nobody is told what is for others: the marker at the end is the next game message that they see.
    for (to, body) in [
        (json!(["bob"]), json!({"for": "bob"})),
        (json!("others"), json!([1, 2.5, null, true])),
        (json!("host"), json!("for the host")),
        (json!(["cid", "nobody"]), json!("for cid")),
    ] {
        assert_eq!(bob.ask(send(to, body)).await, Ok(json!({})));
    }
    assert_eq!(bob.ask(json!({"op": "typing", "lobby": "arena"})).await, Ok(json!({})));
    assert_eq!(bob.ask(send(Value::Null, json!("marker"))).await, Ok(json!({})));
    let mut heard = Vec::new();
    for player in [&mut ann, &mut bob, &mut cid] {
        player.hears("marker").await;
        let bodies: Vec<_> = player
            .unread()
            .filter(|event| event["ev"] == "message")
            .inspect(|event| assert_eq!(event.get("seq"), None))
            .map(|event| event["body"].clone())
            .collect();
        heard.push(bodies);
        player.forget();
    }
    assert_eq!(heard[0], [json!([1, 2.5, null, true]), json!("for the host")]);
    assert_eq!(heard[1], [json!({"for": "bob"})]);
    assert_eq!(heard[2], [json!([1, 2.5, null, true]), json!("for cid")]);

    let typing = json!({"op": "typing", "lobby": "arena"});
    assert_eq!(ann.ask(typing).await, Ok(json!({})));
    assert_eq!(bob.event("typing").await["user"], "ann");
    assert_eq!(cid.event("typing").await["user"], "ann");
    drop((ann, bob, cid));
    cluster.stop().await;
}

struct Friend {
    client: Client,
    events: Events,
}

impl Friend {
    async fn connect(cluster: &Cluster, user: &str, encoding: Encoding, lobby: &LobbyId) -> Friend {
        let token = TokenSource::fixed(cluster.token(user));
        let options = Options { encoding, ..Options::new(format!("ws://{}", cluster.address()), token) };
        let (client, events) = Client::connect(options).unwrap();
        client.opened().await.unwrap();
        client.join(lobby, Join { create: Some(Default::default()), ..Join::default() }).await.unwrap();
        Friend { client, events }
    }

    async fn next_body(&mut self) -> Body {
        loop {
            match self.events.recv().await.expect("the client lives") {
                Incoming::Event(Event::Message(message)) => return message.body,
                Incoming::Event(Event::Lobby(event)) => {
                    if let Change::Message { body, .. } = event.change {
                        return body;
                    }
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_binary_body_reaches_msgpack_as_bytes_and_json_as_base64() {
    let mut cluster = Cluster::start().await;
    let lobby = LobbyId::new("blobs").unwrap();
    let mut packed = Friend::connect(&cluster, "pat", Encoding::Msgpack, &lobby).await;
    let mut plain = Friend::connect(&cluster, "jay", Encoding::Json, &lobby).await;
    let mut other = Friend::connect(&cluster, "mia", Encoding::Msgpack, &lobby).await;
    // MessagePack: bin 8 with four bytes, none of them text.
    let bytes = [0xc4, 4, 0x00, 0xff, 0xfe, 0x80];
    let body = Body::new(Encoding::Msgpack, &bytes).unwrap();
    for class in [mlms_protocol::Class::Durable, mlms_protocol::Class::Ordered] {
        let message = Message::new(Kind::new("game").unwrap(), body.clone()).class(class);
        packed.client.send(&lobby, message).await.unwrap();
        for friend in [&mut packed, &mut other] {
            assert_eq!(friend.next_body().await.to(Encoding::Msgpack).as_ref(), bytes);
        }
        assert_eq!(plain.next_body().await.as_text().as_deref(), Some("AP/+gA=="));
    }
    // And the other way round, numbers keep their kind.
    let value = json!({"n": 1, "f": 0.5, "big": u64::MAX, "neg": i64::MIN, "list": [null, false, ""]});
    let message = Message::new(Kind::new("game").unwrap(), Body::json(&value));
    plain.client.send(&lobby, message).await.unwrap();
    for friend in [&mut packed, &mut plain, &mut other] {
        let json = friend.next_body().await.to(Encoding::Json);
        assert_eq!(serde_json::from_slice::<Value>(&json).unwrap(), value);
    }
    for friend in [packed, plain, other] {
        friend.client.close().await;
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_member_whose_connection_is_lost_is_away_then_back_or_gone() {
    let mut cluster = Cluster::with(&[("MLMS_LOBBY_GRACE_SECONDS", "5")]).await;
    let mut ann = cluster.player_in("ann", "den").await;
    let bob = cluster.player_in("bob", "den").await;
    let second = cluster.player_in("bob", "den").await;
    // The second session of a user changes nothing for the others.
    ann.event("joined").await;
    second.vanish();
    bob.vanish();
    assert_eq!(ann.event("away").await["user"], "bob");
    let bob = cluster.player_in("bob", "den").await;
    assert_eq!(ann.event("back").await["user"], "bob");
    assert!(ann.unread().all(|event| event["ev"] != "joined"), "{ann:?}");
    bob.vanish();
    assert_eq!(ann.event("away").await["user"], "bob");
    let left = ann.event("left").await;
    assert_eq!(left["user"], "bob");
    // The host's place goes on when the host leaves.
    let mut cid = cluster.player("cid").await;
    assert_eq!(cid.join("den").await["state"]["host"], "ann");
    assert_eq!(ann.ask(json!({"op": "leave", "lobby": "den"})).await, Ok(json!({})));
    assert_eq!(cid.event("left").await["user"], "ann");
    assert_eq!(cid.event("host_changed").await["user"], "cid");
    let refusal = ann.ask(json!({"op": "typing", "lobby": "den"})).await.unwrap_err();
    assert_eq!(refusal["code"], "not_member");
    drop((ann, cid));
    cluster.stop().await;
}

#[tokio::test]
async fn a_lobby_outlives_its_stay_in_memory() {
    let seconds = [("MLMS_LOBBY_GRACE_SECONDS", "0"), ("MLMS_LOBBY_EMPTY_SECONDS", "1")];
    let mut cluster = Cluster::with(&seconds).await;
    let mut ann = cluster.player_in("ann", "attic").await;
    let first = ann.chat("attic", "remember me").await;
    ann.ask(json!({"op": "leave", "lobby": "attic"})).await.unwrap();
    let gone = async {
        while cluster.metric("mlms_lobbies", "").await > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::cluster::PATIENCE, gone).await.expect("the empty lobby leaves memory");
    let joined = ann.ask(json!({"op": "join", "lobby": "attic"})).await.unwrap();
    assert!(seq(&joined) > seq(&first));
    assert_eq!(joined["state"]["messages"][0]["body"], "remember me");
    let events = ann.whole_history("attic").await;
    assert_eq!(gapless(&events).0, 1);
    drop(ann);
    cluster.stop().await;
}
