//! A server that does what the test says, frame by frame.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use mlms_client::protocol::command::{Join, ResumePoint};
use mlms_client::protocol::event::LobbyState;
use mlms_client::protocol::reply::{Joined, encode_reply};
use mlms_client::protocol::{
    Answer, Body, Change, Command, Encoding, Epoch, Event, JoinStatus, Kind, Limits, LobbyCommand,
    LobbyEvent, LobbyId, Millis, NodeName, Refusal, Request, Seq, SessionId, UserId,
};
use mlms_client::{Client, Connector, Events, Incoming, Options, State, TokenSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Upgrade, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Message};

pub(crate) const HEARTBEAT: Duration = Duration::from_secs(25);

pub(crate) fn lobby(name: &str) -> LobbyId {
    LobbyId::new(name).unwrap()
}

pub(crate) struct Server {
    pipes: mpsc::Receiver<DuplexStream>,
    pipe_bytes: usize,
    pub(crate) limits: Limits,
}

/// One connection as the server sees it.
pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<DuplexStream>,
    pub(crate) encoding: Encoding,
    pub(crate) token: String,
    pub(crate) uri: String,
}

impl Server {
    pub(crate) fn new() -> (Server, Options) {
        Server::with_pipes_of(64 << 10)
    }

    pub(crate) fn with_pipes_of(pipe_bytes: usize) -> (Server, Options) {
        let (sender, pipes) = mpsc::channel(64);
        let connector = Connector::new(move |_| {
            let sender = sender.clone();
            async move {
                let (near, far) = duplex(pipe_bytes);
                sender
                    .send(far)
                    .await
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
                Ok(near)
            }
        });
        let mut options = Options::new("ws://server", TokenSource::fixed("t0"));
        options.connector = connector;
        options.seed = Some(1);
        (Server { pipes, pipe_bytes, limits: Limits::default() }, options)
    }

    /// The next connection, after its upgrade, before `welcome`.
    #[expect(clippy::result_large_err, reason = "the handshake's own signature")]
    pub(crate) async fn upgrade(&mut self) -> Peer {
        let pipe = self.pipes.recv().await.unwrap();
        let (mut token, mut uri, mut encoding) = (String::new(), String::new(), None);
        let look = |request: &Upgrade, mut response: Response| -> Result<Response, ErrorResponse> {
            token = request.headers()["authorization"].to_str().unwrap().to_owned();
            uri = request.uri().to_string();
            let protocol = request.headers()["sec-websocket-protocol"].to_str().unwrap();
            encoding = Encoding::from_subprotocol(protocol);
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocol).unwrap());
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(pipe, look).await.unwrap();
        let token = token.strip_prefix("Bearer ").unwrap().to_owned();
        Peer { socket, encoding: encoding.unwrap(), token, uri }
    }

    /// The next connection, welcomed.
    pub(crate) async fn accept(&mut self) -> Peer {
        let mut peer = self.upgrade().await;
        peer.event(&Event::Welcome {
            session: SessionId::new("s1").unwrap(),
            user: UserId::new("ann").unwrap(),
            node: NodeName::new("node-1").unwrap(),
            heartbeat_ms: HEARTBEAT.as_millis().try_into().unwrap(),
            limits: self.limits.clone(),
            now: Millis(1),
        })
        .await;
        peer
    }

    /// Answers the next connection with plain HTTP.
    pub(crate) async fn refuse(&mut self, status: &str, headers: &str) {
        let mut pipe = self.pipes.recv().await.unwrap();
        let mut head = vec![0; self.pipe_bytes];
        let mut read = 0;
        while !head[..read].ends_with(b"\r\n\r\n") {
            read += pipe.read(&mut head[read..]).await.unwrap();
        }
        let answer = format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n");
        pipe.write_all(answer.as_bytes()).await.unwrap();
        pipe.shutdown().await.unwrap();
    }

    /// Closes the next connection before it comes to anything.
    pub(crate) async fn hang_up(&mut self) {
        drop(self.pipes.recv().await.unwrap());
    }

    pub(crate) fn has_no_visitor(&mut self) -> bool {
        self.pipes.try_recv().is_err()
    }
}

impl Peer {
    pub(crate) async fn write(&mut self, payload: Vec<u8>) {
        let message = match self.encoding {
            Encoding::Json => Message::text(String::from_utf8(payload).unwrap()),
            Encoding::Msgpack => Message::binary(payload),
        };
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn event(&mut self, event: &Event) {
        self.write(event.encode(self.encoding)).await;
    }

    pub(crate) async fn chat(&mut self, lobby: &LobbyId, seq: u64) {
        self.event(&chat(lobby, seq)).await;
    }

    pub(crate) async fn answer(&mut self, request: &Request, answer: Answer) {
        self.write(encode_reply(request.id.unwrap(), &Ok(answer), self.encoding)).await;
    }

    pub(crate) async fn refuse(&mut self, request: &Request, refusal: Refusal) {
        self.write(encode_reply(request.id.unwrap(), &Err(refusal), self.encoding)).await;
    }

    /// The next command; `None` when the client has gone.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return Some(Request::decode(Encoding::Json, text.as_bytes()).unwrap());
                }
                Some(Ok(Message::Binary(bytes))) => {
                    return Some(Request::decode(Encoding::Msgpack, &bytes).unwrap());
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub(crate) async fn command(&mut self) -> Request {
        self.next().await.expect("a command, not the end")
    }

    /// The next command, which must be a resume.
    pub(crate) async fn resume(&mut self) -> (Request, Vec<ResumePoint>) {
        let request = self.command().await;
        match request.command.clone() {
            Command::Resume(points) => (request, points),
            other => panic!("{other:?} instead of a resume"),
        }
    }

    /// Answers the next command, which must be a resume, with success for every lobby.
    pub(crate) async fn resume_all(&mut self) -> Vec<ResumePoint> {
        let (request, points) = self.resume().await;
        let outcomes = points.iter().map(|point| Ok(resumed(&point.lobby, point.seq.0))).collect();
        self.answer(&request, Answer::Resumed(outcomes)).await;
        points
    }

    /// Lets the client join, at a position.
    pub(crate) async fn let_join(&mut self, seq: u64) -> LobbyId {
        let request = self.command().await;
        let Command::Lobby(lobby, LobbyCommand::Join(_)) = &request.command else {
            panic!("{request:?} instead of a join")
        };
        let lobby = lobby.clone();
        self.answer(&request, Answer::Joined(joined(&lobby, seq))).await;
        lobby
    }

    pub(crate) async fn ping(&mut self) {
        self.socket.send(Message::Ping(Bytes::new())).await.unwrap();
    }

    pub(crate) async fn close(mut self, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: "because".into() };
        self.socket.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }
}

pub(crate) fn chat(lobby: &LobbyId, seq: u64) -> Event {
    Event::Lobby(LobbyEvent {
        lobby: lobby.clone(),
        epoch: Epoch(1),
        seq: Seq(seq),
        at: Millis(seq),
        change: Change::Message {
            kind: Kind::new("chat").unwrap(),
            from: Some(UserId::new("bob").unwrap()),
            body: Body::text(&format!("message {seq}")),
            nonce: None,
            key: None,
        },
    })
}

pub(crate) fn state() -> LobbyState {
    LobbyState {
        settings: Default::default(),
        host: None,
        members: Vec::new(),
        members_total: 0,
        game: None,
        messages: Vec::new(),
        retained: Vec::new(),
    }
}

pub(crate) fn joined(lobby: &LobbyId, seq: u64) -> Joined {
    Joined {
        lobby: lobby.clone(),
        epoch: Epoch(1),
        seq: Seq(seq),
        status: JoinStatus::Joined,
        missed: 0,
        state: Some(Box::new(state())),
        mark: None,
    }
}

pub(crate) fn resumed(lobby: &LobbyId, seq: u64) -> Joined {
    Joined { status: JoinStatus::Resumed, state: None, ..joined(lobby, seq) }
}

pub(crate) fn sent(seq: u64, dup: bool) -> Answer {
    Answer::Sent { epoch: Epoch(1), seq: Seq(seq), at: Millis(seq), dup }
}

/// A client that has joined `lounge` at seq 10, with its server.
pub(crate) async fn in_the_lounge() -> (Server, Peer, Client, Events) {
    let (server, options) = Server::new();
    in_the_lounge_of(server, options).await
}

pub(crate) async fn in_the_lounge_of(mut server: Server, options: Options) -> (Server, Peer, Client, Events) {
    let (client, mut events) = Client::connect(options).unwrap();
    let mut peer = server.accept().await;
    let lounge = lobby("lounge");
    let (joined, _) = tokio::join!(client.join(&lounge, Join::default()), peer.let_join(10));
    assert_eq!(joined.unwrap().seq, Seq(10));
    assert!(matches!(events.recv().await, Some(Incoming::Event(Event::Welcome { .. }))));
    assert!(matches!(events.recv().await, Some(Incoming::Joined(_))));
    (server, peer, client, events)
}

/// The next sequenced event's number.
pub(crate) async fn next_seq(events: &mut Events) -> u64 {
    loop {
        match events.recv().await.expect("an event, not the end") {
            Incoming::Event(Event::Lobby(event)) => return event.seq.0,
            Incoming::Ended { lobby, refusal } => panic!("{lobby} ended: {refusal:?}"),
            _ => {}
        }
    }
}

/// Waits for a state.
pub(crate) async fn until(client: &Client, is_it: impl FnMut(&State) -> bool) -> State {
    client.state().wait_for(is_it).await.unwrap().clone()
}
