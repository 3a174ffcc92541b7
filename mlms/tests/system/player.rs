//! A player who sees every frame, and can send what no client would.

use std::collections::VecDeque;

use futures_util::{SinkExt as _, StreamExt as _};
use mlms_protocol::Encoding;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::cluster::{Cluster, PATIENCE};

/// How the service ended a session.
#[derive(Debug)]
pub(crate) struct Goodbye {
    /// `None`: without a close frame.
    pub(crate) code: Option<u16>,
    pub(crate) bye: Option<Value>,
}

#[derive(Debug)]
pub(crate) struct Player {
    socket: WebSocketStream<TcpStream>,
    encoding: Encoding,
    next_id: u32,
    /// Events that came while something else was waited for.
    inbox: VecDeque<Value>,
    pub(crate) welcome: Value,
}

impl Cluster {
    /// Opens a WebSocket, and reads `welcome`.
    ///
    /// # Errors
    /// The HTTP status and body with which it was refused.
    pub(crate) async fn open(&self, target: &str, headers: &[(&str, &str)]) -> Result<Player, (u16, Value)> {
        let url = format!("ws://{}{target}", self.address());
        Player::open(&url, headers).await
    }

    /// Connects a user, with no lobby in mind.
    pub(crate) async fn player(&self, user: &str) -> Player {
        self.player_at("/ws", user, Encoding::Json).await
    }

    /// Connects a user into a lobby, creating it.
    pub(crate) async fn player_in(&self, user: &str, lobby: &str) -> Player {
        let mut player = self.player_at(&format!("/ws?lobby={lobby}"), user, Encoding::Json).await;
        player.event("snapshot").await;
        player
    }

    pub(crate) async fn player_at(&self, target: &str, user: &str, encoding: Encoding) -> Player {
        let bearer = format!("Bearer {}", self.token(user));
        let headers =
            [("authorization", bearer.as_str()), ("sec-websocket-protocol", encoding.subprotocol())];
        self.open(target, &headers).await.expect("the player may come in")
    }
}

impl Player {
    pub(crate) async fn open(url: &str, headers: &[(&str, &str)]) -> Result<Player, (u16, Value)> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(
                tokio_tungstenite::tungstenite::http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let address = format!("{}:{}", request.uri().host().unwrap(), request.uri().port_u16().unwrap());
        let socket = TcpSocket::new_v4().unwrap();
        // Small, so that a player who does not read is soon behind.
        socket.set_recv_buffer_size(64 * 1_024).unwrap();
        let stream = socket.connect(address.parse().unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let config = WebSocketConfig::default().read_buffer_size(4_096).max_message_size(Some(64 << 20));
        let handshake = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        let (socket, response) = match timeout(PATIENCE, handshake).await.expect("an answer comes") {
            Ok(opened) => opened,
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                return Err((response.status().as_u16(), serde_json::from_slice(body).unwrap_or_default()));
            }
            Err(error) => panic!("{error}"),
        };
        let chosen = response.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap());
        let encoding = chosen.and_then(Encoding::from_subprotocol).unwrap_or(Encoding::Json);
        let inbox = VecDeque::new();
        let mut player = Player { socket, encoding, next_id: 0, inbox, welcome: Value::Null };
        player.welcome = player.event("welcome").await;
        Ok(player)
    }

    pub(crate) fn encoding(&self) -> Encoding {
        self.encoding
    }

    pub(crate) fn user(&self) -> &str {
        self.welcome["user"].as_str().unwrap()
    }

    /// Sends one object.
    pub(crate) async fn say(&mut self, frame: &Value) {
        let message = match self.encoding {
            Encoding::Json => Message::text(frame.to_string()),
            Encoding::Msgpack => Message::binary(rmp_serde::to_vec(frame).unwrap()),
        };
        self.send(message).await;
    }

    /// Sends any WebSocket message. What the service does with it is seen by reading.
    pub(crate) async fn send(&mut self, message: Message) {
        timeout(PATIENCE, self.socket.send(message)).await.expect("it can be sent").unwrap();
    }

    /// The bytes below the WebSocket.
    pub(crate) fn raw(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// The next frame; `Err`: the session is over.
    async fn frame(&mut self) -> Result<Value, Option<u16>> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await;
            let message = message.unwrap_or_else(|_| panic!("nothing comes; {:?}", self.inbox));
            return match (message, self.encoding) {
                (Some(Ok(Message::Text(text))), Encoding::Json) => Ok(serde_json::from_str(&text).unwrap()),
                (Some(Ok(Message::Binary(bytes))), Encoding::Msgpack) => {
                    Ok(rmp_serde::from_slice(&bytes).unwrap())
                }
                (Some(Ok(Message::Ping(_) | Message::Pong(_))), _) => continue,
                (Some(Ok(Message::Close(frame))), _) => Err(frame.map(|frame| frame.code.into())),
                (Some(Ok(other)), _) => panic!("a frame of the other encoding: {other:?}"),
                (Some(Err(_)) | None, _) => Err(None),
            };
        }
    }

    /// Sends a command, and waits for its reply. Events that come before it wait in the inbox.
    pub(crate) async fn ask(&mut self, command: Value) -> Result<Value, Value> {
        let id = self.post(command).await;
        self.reply(id).await
    }

    /// Sends a command with a number, and does not wait for its reply.
    pub(crate) async fn post(&mut self, mut command: Value) -> u32 {
        self.next_id += 1;
        command["id"] = json!(self.next_id);
        self.say(&command).await;
        self.next_id
    }

    /// Waits for the reply to a command.
    pub(crate) async fn reply(&mut self, id: u32) -> Result<Value, Value> {
        let is_it = |frame: &Value| frame["id"] == json!(id);
        let waiting = self.inbox.iter().position(is_it);
        let mut frame = match waiting {
            Some(place) => self.inbox.remove(place).unwrap(),
            None => loop {
                let frame = self.frame().await;
                let frame = frame.unwrap_or_else(|code| panic!("closed with {code:?}; {:?}", self.inbox));
                if is_it(&frame) {
                    break frame;
                }
                self.inbox.push_back(frame);
            },
        };
        match frame.get_mut("ok") {
            Some(ok) => Ok(ok.take()),
            None => Err(frame["err"].take()),
        }
    }

    /// Waits for the next event that fits; the others wait in the inbox.
    pub(crate) async fn event_where(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.inbox.iter().position(&fits) {
            return self.inbox.remove(place).unwrap();
        }
        loop {
            let frame = self.frame().await;
            let frame = frame.unwrap_or_else(|code| panic!("closed with {code:?}; {:?}", self.inbox));
            if fits(&frame) {
                return frame;
            }
            self.inbox.push_back(frame);
        }
    }

    /// Waits for the next event of this name.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        self.event_where(|frame| frame["ev"] == name).await
    }

    /// Reads text frames and keeps none, up to one that contains this. Gives the number of messages.
    pub(crate) async fn skim_to(&mut self, end: &str) -> u64 {
        let mut count = 0;
        loop {
            match timeout(4 * PATIENCE, self.socket.next()).await.expect("frames come").unwrap().unwrap() {
                Message::Text(text) if text.contains(end) => return count,
                Message::Text(text) if text.contains(r#""ev":"message""#) => count += 1,
                _ => {}
            }
        }
    }

    /// What came and was not asked for yet.
    pub(crate) fn unread(&self) -> impl Iterator<Item = &Value> {
        self.inbox.iter()
    }

    /// Forgets what came and was not asked for yet.
    pub(crate) fn forget(&mut self) {
        self.inbox.clear();
    }

    /// Reads until the service closes the session. What came before waits in the inbox.
    pub(crate) async fn closed(&mut self) -> Goodbye {
        let code = loop {
            match self.frame().await {
                Ok(frame) => self.inbox.push_back(frame),
                Err(code) => break code,
            }
        };
        let bye = self.inbox.iter().position(|frame| frame["ev"] == "bye");
        Goodbye { code, bye: bye.and_then(|place| self.inbox.remove(place)) }
    }

    /// Leaves without a word, as a lost connection does.
    pub(crate) fn vanish(self) {
        drop(self);
    }

    // --- verbs

    pub(crate) async fn join(&mut self, lobby: &str) -> Value {
        self.ask(json!({"op": "join", "lobby": lobby, "create": true})).await.unwrap()
    }

    pub(crate) async fn chat(&mut self, lobby: &str, text: &str) -> Value {
        self.ask(json!({"op": "send", "lobby": lobby, "kind": "chat", "body": text})).await.unwrap()
    }

    /// Waits for a message with this body.
    pub(crate) async fn hears(&mut self, text: &str) -> Value {
        self.event_where(|frame| frame["ev"] == "message" && frame["body"] == text).await
    }

    pub(crate) async fn history(&mut self, lobby: &str, page: Value) -> (Vec<Value>, bool) {
        let mut command = json!({"op": "history", "lobby": lobby, "limit": 200});
        for (name, value) in page.as_object().unwrap() {
            command[name] = value.clone();
        }
        let mut answer = self.ask(command).await.unwrap();
        let more = answer["more"].as_bool().unwrap();
        let Value::Array(events) = answer["events"].take() else { panic!("{answer}") };
        (events, more)
    }

    /// The whole history from its first event on.
    pub(crate) async fn whole_history(&mut self, lobby: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        loop {
            let after = events.last().map_or(0, seq);
            let (page, more) = self.history(lobby, json!({"after": after})).await;
            events.extend(page);
            if !more {
                return events;
            }
        }
    }
}

pub(crate) fn seq(value: &Value) -> u64 {
    value["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {value}"))
}

/// Checks that events follow each other without a gap, and gives their first and last seq.
#[track_caller]
pub(crate) fn gapless(events: &[Value]) -> (u64, u64) {
    for pair in events.windows(2) {
        assert_eq!(seq(&pair[0]) + 1, seq(&pair[1]), "{} then {}", pair[0], pair[1]);
    }
    (seq(events.first().unwrap()), seq(events.last().unwrap()))
}
