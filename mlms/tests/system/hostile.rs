//! Frames that no honest client sends: each gets its code, is counted, and touches nobody else.

use mlms_protocol::Encoding;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::cluster::Cluster;
use crate::player::Player;

/// A masked client frame (RFC 6455, section 5.2) with a mask of zeros, payload below 126 bytes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

/// The lobby of the attack: two honest members on different roads, who must notice nothing.
struct Bystanders {
    near: Player,
    far: Player,
    said: u32,
}

impl Bystanders {
    async fn of(cluster: &Cluster) -> Bystanders {
        let mut near = cluster.player_in("near", "arena").await;
        let mut far = cluster.player_at("/ws", "far", Encoding::Msgpack).await;
        far.join("arena").await;
        near.event("joined").await;
        Bystanders { near, far, said: 0 }
    }

    async fn go_on(&mut self, after: &str) {
        for _ in 0..2 {
            self.said += 1;
            let text = format!("{} after {after}", self.said);
            self.near.chat("arena", &text).await;
            self.far.hears(&text).await;
            self.near.hears(&text).await;
            std::mem::swap(&mut self.near, &mut self.far);
        }
        for player in [&mut self.near, &mut self.far] {
            let strange = player.unread().find(|event| {
                let harmless = ["joined", "left", "away", "back"];
                !harmless.iter().any(|name| event["ev"] == *name)
            });
            assert_eq!(strange, None, "after {after}");
            player.forget();
        }
    }
}

/// What is sent, and the code and label of the close that follows.
struct Attack {
    name: &'static str,
    encoding: Encoding,
    bytes: Vec<u8>,
    code: u16,
    label: &'static str,
}

fn attack(name: &'static str, bytes: Vec<u8>, code: u16, label: &'static str) -> Attack {
    Attack { name, encoding: Encoding::Json, bytes, code, label }
}

fn packed(name: &'static str, payload: &[u8]) -> Attack {
    let bytes = frame(0x82, payload);
    Attack { name, encoding: Encoding::Msgpack, bytes, code: 4501, label: "protocol_error" }
}

fn text(name: &'static str, payload: &[u8]) -> Attack {
    attack(name, frame(0x81, payload), 4501, "protocol_error")
}

fn broken(name: &'static str, bytes: Vec<u8>) -> Attack {
    attack(name, bytes, 1002, "websocket_protocol")
}

fn too_big(name: &'static str, first: u8) -> Attack {
    let mut bytes = vec![first, 0xff];
    bytes.extend_from_slice(&(65_537_u64).to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend(std::iter::repeat_n(b'x', 65_537));
    attack(name, bytes, 1009, "message_too_big")
}

fn attacks() -> Vec<Attack> {
    let utf8 = |name, bytes| attack(name, bytes, 1007, "websocket_utf8");
    let deep = format!(r#"{{"op":"ping","x":{}1{}}}"#, "[".repeat(50), "]".repeat(50)).replace("]}", "}");
    vec![
        text("no JSON", b"nonsense"),
        text("nothing", b""),
        text("an array", b"[]"),
        text("a number", b"7"),
        text("two objects", br#"{"op":"ping"}{"op":"ping"}"#),
        text("an object without op", br#"{"id":1}"#),
        text("op of another type", br#"{"id":1,"op":7}"#),
        text("half an object", br#"{"op":"ping""#),
        text("brackets that do not close", deep.as_bytes()),
        attack("binary on a JSON session", frame(0x82, br#"{"op":"ping"}"#), 4501, "protocol_error"),
        packed("nothing in MessagePack", b""),
        packed("a reserved byte of MessagePack", &[0xc1]),
        packed("a map that promises too much", &[0xdf, 0xff, 0xff, 0xff, 0xff]),
        packed("text that promises too much", &[0xdb, 0xff, 0xff, 0xff, 0xff, b'x']),
        packed("JSON on a MessagePack session", br#"{"op":"ping"}"#),
        Attack { encoding: Encoding::Msgpack, ..text("text on a MessagePack session", br#"{"op":"ping"}"#) },
        utf8("bad UTF-8", frame(0x81, b"{\"op\":\"\xff\"}")),
        utf8("a surrogate in UTF-8", frame(0x81, b"{\"op\":\"\xed\xa0\x80\"}")),
        utf8("bad UTF-8 over two frames", [frame(0x01, b"{\"op\":\"\xe2"), frame(0x80, b"\x28\"}")].concat()),
        too_big("a frame over the limit", 0x81),
        Attack { encoding: Encoding::Msgpack, ..too_big("a binary frame over the limit", 0x82) },
        broken("an unmasked frame", vec![0x81, 2, b'{', b'}']),
        broken("a reserved bit", frame(0xc1, b"{}")),
        broken("a reserved opcode", frame(0x83, b"{}")),
        broken("a reserved control opcode", frame(0x8b, b"")),
        broken("a continuation of nothing", frame(0x80, b"{}")),
        broken("a new message inside a message", [frame(0x01, b"{"), frame(0x81, b"}")].concat()),
        broken("a ping in parts", frame(0x09, b"x")),
        broken("half a close code", frame(0x88, b"x")),
        broken("a close code that no peer may send", frame(0x88, &1005_u16.to_be_bytes())),
        broken("a long ping", {
            let mut bytes = vec![0x89, 0xfe, 0, 126, 0, 0, 0, 0];
            bytes.extend_from_slice(&[b'x'; 126]);
            bytes
        }),
    ]
}

#[tokio::test]
async fn a_broken_frame_ends_its_session_with_its_code_and_nobody_else_notices() {
    let mut cluster = Cluster::with(&[("MLMS_LIMIT_CHATS_PER_S", "0")]).await;
    let mut bystanders = Bystanders::of(&cluster).await;
    for Attack { name, encoding, bytes, code, label } in attacks() {
        let counted = cluster.metric("mlms_closes_total", label).await;
        let mut mallory = cluster.player_at("/ws?lobby=arena", "mallory", encoding).await;
        mallory.event("snapshot").await;
        mallory.raw().write_all(&bytes).await.unwrap();
        let goodbye = mallory.closed().await;
        assert_eq!(goodbye.code, Some(code), "{name}: {goodbye:?}");
        if code >= 4_000 {
            let bye = goodbye.bye.unwrap_or_else(|| panic!("{name}: no bye"));
            assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(code), &json!("never")), "{name}");
        }
        cluster.until_metric("mlms_closes_total", label, counted + 1.0).await;
        bystanders.go_on(name).await;
    }
    drop(bystanders);
    cluster.stop().await;
}

#[tokio::test]
async fn a_bad_command_is_refused_and_its_session_goes_on() {
    let mut cluster = Cluster::with(&[("MLMS_LIMIT_COMMANDS_PER_S", "0")]).await;
    let mut bystanders = Bystanders::of(&cluster).await;
    let lobby = "arena";
    let chat = |body: Value| json!({"op": "send", "lobby": lobby, "kind": "chat", "body": body});
    let deep = (0..65).fold(json!(1), |value, _| json!([value]));
    let cases = [
        (json!({"op": "fly"}), "unknown_op"),
        (json!({"op": ""}), "unknown_op"),
        (json!({"op": "find", "filter": 7}), "bad_request"),
        (json!({"op": "kick", "lobby": lobby, "user": "near"}), "forbidden"),
        (json!({"op": "edit", "lobby": lobby, "body": "x"}), "bad_request"),
        (json!({"op": "join"}), "bad_request"),
        (json!({"op": "join", "lobby": 7}), "bad_request"),
        (json!({"op": "join", "lobby": "no spaces"}), "bad_request"),
        (json!({"op": "join", "lobby": "x".repeat(65)}), "bad_request"),
        (json!({"op": "join", "lobby": ""}), "bad_request"),
        (json!({"op": "join", "lobby": "new", "create": 7}), "bad_request"),
        (json!({"op": "join", "lobby": "new", "create": {"capacity": 0}}), "bad_request"),
        (json!({"op": "join", "lobby": "new", "create": {"capacity": 100_000}}), "bad_request"),
        (json!({"op": "join", "lobby": "new", "create": {"no_such_setting": 1}}), "bad_request"),
        (json!({"op": "join", "lobby": lobby, "role": "king"}), "bad_request"),
        (json!({"op": "join", "lobby": "nowhere"}), "not_found"),
        (json!({"op": "leave", "lobby": "nowhere"}), "not_found"),
        (json!({"op": "resume", "lobbies": {}}), "bad_request"),
        (json!({"op": "resume", "lobbies": [{"epoch": 1, "seq": 1}]}), "bad_request"),
        (json!({"op": "send", "lobby": lobby, "kind": "chat"}), "bad_request"),
        (json!({"op": "send", "lobby": lobby, "body": "x"}), "bad_request"),
        (json!({"op": "send", "lobby": lobby, "kind": "No!", "body": "x"}), "bad_request"),
        (chat(json!(7)), "bad_request"),
        (chat(json!("x".repeat(4_097))), "too_large"),
        (json!({"op": "send", "lobby": lobby, "kind": "game", "body": deep}), "bad_request"),
        (json!({"op": "send", "lobby": lobby, "kind": "game", "body": 1, "class": "loud"}), "bad_request"),
        (
            json!({"op": "send", "lobby": lobby, "kind": "game", "body": 1, "to": ["near"], "class": "durable"}),
            "bad_request",
        ),
        (
            json!({"op": "send", "lobby": lobby, "kind": "game", "body": 1, "nonce": "x".repeat(37)}),
            "bad_request",
        ),
        (json!({"op": "send", "lobby": lobby, "kind": "game", "body": 1, "to": "the world"}), "bad_request"),
        (json!({"op": "send", "lobby": "nowhere", "kind": "game", "body": 1}), "not_found"),
        (json!({"op": "history", "lobby": lobby, "limit": 201}), "bad_request"),
        (json!({"op": "history", "lobby": lobby, "limit": 0}), "bad_request"),
        (json!({"op": "history", "lobby": lobby, "limit": -1}), "bad_request"),
        (json!({"op": "roster", "lobby": lobby, "limit": 101}), "bad_request"),
        (json!({"op": "roster", "lobby": lobby, "cursor": "nonsense"}), "bad_request"),
        (json!({"op": "auth"}), "bad_request"),
        (json!({"op": "close", "lobby": lobby}), "forbidden"),
    ];
    let mut mallory = cluster.player_in("mallory", lobby).await;
    for (command, code) in cases {
        let counted = cluster.metric("mlms_refusals_total", code).await;
        let shown: String = command.to_string().chars().take(120).collect();
        let refusal = mallory.ask(command.clone()).await.expect_err(&shown);
        assert_eq!(refusal["code"], code, "{shown}: {refusal}");
        assert!(refusal["message"].is_string() && refusal.get("retry_ms").is_none(), "{shown}: {refusal}");
        cluster.until_metric("mlms_refusals_total", code, counted + 1.0).await;
        // Without an id the same comes as an event.
        mallory.say(&command).await;
        let error = mallory.event("error").await;
        assert_eq!((&error["code"], &error["op"]), (&json!(code), &command["op"]), "{shown}: {error}");
    }
    // An id that is none: there is nothing to answer to.
    for id in [json!(-1), json!("seven"), json!(4_294_967_296_u64), json!({})] {
        mallory.say(&json!({"op": "ping", "id": id})).await;
        assert_eq!(mallory.event("error").await["code"], "bad_request");
    }
    // Fields that the server does not know are ignored.
    mallory.ask(json!({"op": "ping", "later": {"version": 9}})).await.unwrap();
    bystanders.go_on("the refusals").await;
    mallory.chat(lobby, "still here").await;
    drop((bystanders, mallory));
    cluster.stop().await;
}

#[tokio::test]
async fn nothing_is_done_for_frames_behind_a_close() {
    let mut cluster = Cluster::start().await;
    let mut bystanders = Bystanders::of(&cluster).await;
    let mut mallory = cluster.player_in("mallory", "arena").await;
    let late = br#"{"op":"send","lobby":"arena","kind":"game","body":"too late"}"#;
    // The client's own close frame, and a command right behind it in the same write.
    let bytes = [frame(0x88, &1000_u16.to_be_bytes()), frame(0x81, late)].concat();
    mallory.raw().write_all(&bytes).await.unwrap();
    assert_eq!(mallory.closed().await.code, Some(1000));
    bystanders.go_on("a close").await;
    // The same behind a frame for which the service closes.
    let mut mallory = cluster.player_in("mallory", "arena").await;
    let bytes = [frame(0x81, b"nonsense"), frame(0x81, late)].concat();
    mallory.raw().write_all(&bytes).await.unwrap();
    assert_eq!(mallory.closed().await.code, Some(4501));
    bystanders.go_on("a protocol error").await;
    // Bytes of another protocol, and a client that closes with a reason.
    let mut mallory = cluster.player_in("mallory", "arena").await;
    mallory.raw().write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(mallory.closed().await.code, Some(1002));
    let mut mallory = cluster.player_in("mallory", "arena").await;
    let reason = CloseFrame { code: CloseCode::Away, reason: "going home".into() };
    mallory.send(Message::Close(Some(reason))).await;
    assert_eq!(mallory.closed().await.code, Some(1001));
    bystanders.go_on("bytes of another protocol").await;
    // A connection that is lost has broken nothing, between two frames or within one.
    let counted = cluster.metric("mlms_closes_total", "websocket_protocol").await;
    for begun in [&b""[..], &[0x81, 0x90, 0, 0]] {
        let mut mallory = cluster.player_in("mallory", "arena").await;
        mallory.raw().write_all(begun).await.unwrap();
        mallory.vanish();
        while bystanders.near.event("away").await["user"] != "mallory" {}
        bystanders.go_on("a lost connection").await;
    }
    assert_eq!(cluster.metric("mlms_closes_total", "websocket_protocol").await, counted);
    drop(bystanders);
    cluster.stop().await;
}

#[tokio::test]
async fn a_peer_that_gives_no_sign_of_life_is_closed_and_pings_are_answered() {
    let mut cluster = Cluster::with(&[("MLMS_HEARTBEAT_MS", "400")]).await;
    let mut ann = cluster.player_in("ann", "arena").await;
    let mut silent = cluster.player_in("silent", "arena").await;
    ann.event("joined").await;
    // Pings are answered by reading: this one reads no more, while the other does.
    silent.raw().write_all(&frame(0x89, b"are you there?")).await.unwrap();
    let away = ann.event("away").await;
    assert_eq!(away["user"], "silent");
    assert_eq!(cluster.metric("mlms_closes_total", "no_pong").await, 1.0);
    // Read as bare bytes: a library would first answer the old pings, on a socket that is closed by now.
    let mut words = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(silent.raw(), &mut words).await.unwrap();
    let close = frame_end(4003, "no sign of life");
    assert!(words.ends_with(&close), "{}", String::from_utf8_lossy(&words));
    let bye = String::from_utf8_lossy(&words).into_owned();
    assert!(bye.contains(r#""code":4003"#) && bye.contains(r#""reconnect":"now""#), "{bye}");
    ann.chat("arena", "I am here").await;
    drop((ann, silent));
    cluster.stop().await;
}

/// The service's close frame: its code and its reason (RFC 6455 section 5.5.1).
fn frame_end(code: u16, reason: &str) -> Vec<u8> {
    let length = u8::try_from(reason.len() + 2).unwrap();
    [&[0x88, length][..], &code.to_be_bytes(), reason.as_bytes()].concat()
}
