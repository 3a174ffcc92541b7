//! A player's end of one connection, on the level of frames: nothing is repaired and nothing hidden.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use mlms_protocol::command::{History, Join, Position, Send};
use mlms_protocol::reply::Joined;
use mlms_protocol::{
    Answer, Body, Class, Command, Encoding, Event, Kind, LobbyCommand, LobbyEvent, LobbyId, Nonce, Refusal,
    Request, Seq, ServerFrame,
};
use tokio::io::DuplexStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How long a story waits for what must come, on the paused clock.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Line {
    stream: WebSocketStream<DuplexStream>,
    encoding: Encoding,
    ops: HashMap<u32, &'static str>,
    next_id: u32,
    /// Events that came while a reply was awaited.
    waiting: VecDeque<Event>,
    /// Replies that came while something else was awaited.
    replies: HashMap<u32, Result<Answer, Refusal>>,
    /// The close code, once there was one.
    pub closed: Option<u16>,
}

impl Line {
    pub(crate) async fn new(pipe: DuplexStream, encoding: Encoding) -> Self {
        let stream = WebSocketStream::from_raw_socket(pipe, Role::Client, None).await;
        Line {
            stream,
            encoding,
            ops: HashMap::new(),
            next_id: 1,
            waiting: VecDeque::new(),
            replies: HashMap::new(),
            closed: None,
        }
    }

    /// Sends a command, and gives its id. `None`: the connection is gone.
    pub(crate) async fn send(&mut self, command: Command, nonce: Option<Nonce>) -> Option<u32> {
        let id = self.next_id;
        self.next_id += 1;
        self.ops.insert(id, command.op());
        let frame = Request { id: Some(id), nonce, command }.encode(self.encoding);
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(frame).unwrap()),
            Encoding::Msgpack => Message::binary(frame),
        };
        self.stream.send(message).await.ok().map(|()| id)
    }

    /// Sends a frame that need not be valid.
    pub(crate) async fn send_raw(&mut self, message: Message) -> bool {
        self.stream.send(message).await.is_ok()
    }

    /// Notes what a raw frame asks for; later commands get later ids.
    pub(crate) fn expect(&mut self, op: &'static str, id: u32) {
        self.ops.insert(id, op);
        self.next_id = self.next_id.max(id + 1);
    }

    /// The next frame; `None` when the connection is over. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<ServerFrame> {
        loop {
            let frame = match self.stream.next().await? {
                Ok(Message::Text(text)) => text.as_bytes().to_vec(),
                Ok(Message::Binary(bytes)) => bytes.to_vec(),
                Ok(Message::Close(frame)) => {
                    self.closed = frame.map(|frame| frame.code.into());
                    continue;
                }
                Ok(_) => continue,
                Err(_) => return None,
            };
            let ops = &mut self.ops;
            let frame = ServerFrame::decode(self.encoding, &frame, |id| ops.remove(&id));
            return Some(frame.expect("the server sends valid frames"));
        }
    }

    /// Closes politely.
    pub(crate) async fn close(mut self) {
        // The server may be gone.
        let _ = self.stream.close(None).await;
        while self.next().await.is_some() {}
    }

    // --- for stories, which expect what comes

    pub(crate) async fn welcomed(&mut self) {
        let welcome = self.event().await;
        assert!(matches!(welcome, Event::Welcome { .. }), "{welcome:?}");
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Event {
        self.try_event().await.unwrap_or_else(|| panic!("the connection ended: {:?}", self.closed))
    }

    /// The next event; `None` when the connection is over.
    pub(crate) async fn try_event(&mut self) -> Option<Event> {
        if let Some(event) = self.waiting.pop_front() {
            return Some(event);
        }
        loop {
            match timeout(PATIENCE, self.next()).await.expect("nothing comes any more")? {
                ServerFrame::Event(event) => return Some(event),
                ServerFrame::Reply { id, outcome } => _ = self.replies.insert(id, outcome),
                ServerFrame::Unknown => {}
            }
        }
    }

    /// Stays for a while: reads, so that pings are answered, and keeps what comes.
    pub(crate) async fn stay(&mut self, time: Duration) {
        let keep = async {
            loop {
                match self.next().await {
                    Some(ServerFrame::Event(event)) => self.waiting.push_back(event),
                    Some(ServerFrame::Reply { id, outcome }) => _ = self.replies.insert(id, outcome),
                    Some(ServerFrame::Unknown) => {}
                    None => panic!("the connection ended: {:?}", self.closed),
                }
            }
        };
        let ended: Result<(), _> = timeout(time, keep).await;
        assert!(ended.is_err(), "only time ends it");
    }

    /// The first event that is one; others are passed over.
    pub(crate) async fn event_that(&mut self, is: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.event().await;
            if is(&event) {
                return event;
            }
        }
    }

    /// Reads to the end, and tells the close code.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        while self.try_event().await.is_some() {}
        self.closed
    }

    pub(crate) async fn reply(&mut self, id: u32) -> Result<Answer, Refusal> {
        if let Some(outcome) = self.replies.remove(&id) {
            return outcome;
        }
        loop {
            match timeout(PATIENCE, self.next()).await.expect("the reply does not come") {
                Some(ServerFrame::Reply { id: of, outcome }) if of == id => return outcome,
                Some(ServerFrame::Reply { id, outcome }) => _ = self.replies.insert(id, outcome),
                Some(ServerFrame::Event(event)) => self.waiting.push_back(event),
                Some(ServerFrame::Unknown) => {}
                None => panic!("the connection ended: {:?}", self.closed),
            }
        }
    }

    pub(crate) async fn ask(&mut self, command: Command, nonce: Option<&str>) -> Result<Answer, Refusal> {
        let nonce = nonce.map(|nonce| Nonce::new(nonce).unwrap());
        let id = self.send(command, nonce).await.expect("the connection is there");
        self.reply(id).await
    }

    async fn ask_lobby(&mut self, lobby: &LobbyId, command: LobbyCommand) -> Result<Answer, Refusal> {
        self.ask(Command::Lobby(lobby.clone(), command), None).await
    }

    pub(crate) async fn join(&mut self, lobby: &LobbyId) -> Joined {
        let join = Join { create: Some(mlms_protocol::lobby::Settings::default()), ..Join::default() };
        self.join_with(lobby, join).await.unwrap()
    }

    pub(crate) async fn join_with(&mut self, lobby: &LobbyId, join: Join) -> Result<Joined, Refusal> {
        match self.ask_lobby(lobby, LobbyCommand::Join(join)).await? {
            Answer::Joined(joined) => Ok(joined),
            other => panic!("{other:?} is no answer to a join"),
        }
    }

    pub(crate) async fn join_since(&mut self, lobby: &LobbyId, since: Position) -> Joined {
        self.join_with(lobby, Join { since: Some(since), ..Join::default() }).await.unwrap()
    }

    pub(crate) async fn leave(&mut self, lobby: &LobbyId) {
        self.ask_lobby(lobby, LobbyCommand::Leave).await.unwrap();
    }

    /// A chat that gets its ok; gives its seq.
    pub(crate) async fn chat(&mut self, lobby: &LobbyId, text: &str) -> Seq {
        match self.ask(chat(lobby, text), None).await.unwrap() {
            Answer::Sent { seq, .. } => seq,
            other => panic!("{other:?} is no answer to a chat"),
        }
    }

    pub(crate) async fn history(&mut self, lobby: &LobbyId, after: u64) -> Vec<LobbyEvent> {
        let history = History { before: None, after: Some(Seq(after)), limit: 200 };
        match self.ask_lobby(lobby, LobbyCommand::History(history)).await.unwrap() {
            Answer::History { events, .. } => events,
            other => panic!("{other:?} is no answer to a reading"),
        }
    }
}

pub(crate) fn chat(lobby: &LobbyId, text: &str) -> Command {
    message(lobby, "chat", text, Class::Durable)
}

pub(crate) fn message(lobby: &LobbyId, kind: &str, text: &str, class: Class) -> Command {
    let send = Send {
        kind: Kind::new(kind).unwrap(),
        body: Body::text(text),
        class,
        key: None,
        to: mlms_protocol::command::Recipients::Everyone,
    };
    Command::Lobby(lobby.clone(), LobbyCommand::Send(send))
}
