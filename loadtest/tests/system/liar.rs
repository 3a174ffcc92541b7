//! A tiny server that speaks enough of the protocol for one lobby, and tells one lie.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, accept_hdr};

/// What it does wrong, once, at the twentieth message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    None,
    /// One member never gets it.
    Drop,
    /// One member gets it twice.
    Duplicate,
    /// One member gets it after the next one.
    Reorder,
    /// It gets its ok, and nobody ever gets it.
    AckOnly,
    /// One member gets another text.
    Alter,
    /// It has the seq of the one before.
    SameSeq,
    /// It comes under two seqs.
    TwoSeqs,
    /// It is refused for good, and happens all the same.
    RefuseAndDo,
    /// Its sender never gets an answer.
    NoReply,
    /// A message that nobody sent.
    Invent,
    /// The last members get nothing from then on.
    Deaf,
    /// One member gets it as another kind.
    Kind,
    /// It comes behind the next one of its sender.
    Overtake,
    /// One member gets an empty snapshot in its place.
    Snapshot,
    /// Every message is refused, and may be sent again.
    RefuseAll,
    /// Every message is refused for good.
    ForbidAll,
    /// No lie: the last member hears everything from then on three seconds later.
    Late,
}

/// How much later.
const LATER: Duration = Duration::from_secs(3);

struct Member {
    stream: TcpStream,
    /// An event that is sent after the next one.
    late: Option<Value>,
    is_deaf: bool,
    /// What is sent later, with its time.
    later: Option<mpsc::Sender<(Instant, Value)>>,
}

struct Lobby {
    lie: Lie,
    name: String,
    seq: u64,
    messages: u64,
    members: Vec<Member>,
    /// A command that waits until its sender's next one is done.
    waiting: Option<(Value, String)>,
}

/// Serves until the test ends; gives its URL.
pub(crate) fn serve(lie: Lie) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let lobby = Lobby { lie, name: String::new(), seq: 0, messages: 0, members: Vec::new(), waiting: None };
    let lobby = Arc::new(Mutex::new(lobby));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let lobby = Arc::clone(&lobby);
            thread::spawn(move || session(stream, &lobby));
        }
    });
    url
}

fn session(stream: TcpStream, lobby: &Mutex<Lobby>) {
    let mut name = String::new();
    #[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
    let look = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        name = request.uri().query().unwrap_or_default().trim_start_matches("lobby=").to_owned();
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mlms.v1.json"));
        Ok(response)
    };
    stream.set_nodelay(true).unwrap();
    // A look at the port without a handshake is no session.
    let Ok(mut socket) = accept_hdr(stream, look) else { return };
    let mut own = socket.get_ref().try_clone().unwrap();
    {
        let mut lobby = lobby.lock().unwrap();
        put(&mut own, &json!({"ev": "welcome", "user": "?", "heartbeat_ms": 25_000, "limits": {}, "now": 0}));
        if name.is_empty() {
            // Somebody who only looks whether anybody is here.
            return;
        }
        lobby.name = name;
        lobby.seq += 1;
        let joined =
            json!({"ev": "joined", "lobby": lobby.name, "epoch": 1, "seq": lobby.seq, "user": lobby.seq});
        lobby.members.iter_mut().for_each(|member| put(&mut member.stream, &joined));
        let state = json!({"host": null, "messages": []});
        put(
            &mut own,
            &json!({"ev": "snapshot", "lobby": lobby.name, "epoch": 1, "seq": lobby.seq, "state": state}),
        );
        lobby.members.push(Member {
            stream: own.try_clone().unwrap(),
            late: None,
            is_deaf: false,
            later: None,
        });
    }
    while let Ok(message) = socket.read() {
        let Message::Text(text) = message else { continue };
        let command: Value = serde_json::from_str(&text).unwrap();
        lobby.lock().unwrap().take(&command, &mut own);
    }
}

impl Lobby {
    fn take(&mut self, command: &Value, own: &mut TcpStream) {
        let id = &command["id"];
        match command["op"].as_str().unwrap() {
            "send" => self.send(command, own),
            "history" => put(own, &json!({"id": id, "ok": {"events": [], "more": false}})),
            _ => put(own, &json!({"id": id, "err": {"code": "unknown_op", "message": "no"}})),
        }
    }

    fn send(&mut self, command: &Value, own: &mut TcpStream) {
        self.messages += 1;
        let is_time = self.messages == 20;
        let refusal = match self.lie {
            Lie::RefuseAll => Some(json!({"code": "overloaded", "message": "no", "retry_ms": 200})),
            Lie::ForbidAll => Some(json!({"code": "forbidden", "message": "no"})),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return put(own, &json!({"id": command["id"], "err": refusal}));
        }
        let body = command["body"].as_str().unwrap();
        let sender = body.split(' ').nth(2).unwrap().to_owned();
        if is_time && self.lie == Lie::Overtake {
            self.waiting = Some((command.clone(), sender));
            return;
        }
        self.carry_out(command, own, if is_time { self.lie } else { Lie::None });
        if let Some((waiting, _)) = self.waiting.take_if(|(_, of)| *of == sender) {
            self.carry_out(&waiting, own, Lie::None);
        }
    }

    fn carry_out(&mut self, command: &Value, own: &mut TcpStream, lie: Lie) {
        let is_durable = command["class"] == "durable";
        // `lt RUN SENDER …`: users are called RUN-SENDER.
        let body = command["body"].as_str().unwrap().to_owned();
        let words: Vec<&str> = body.split(' ').collect();
        let from = format!("{}-{}", words[1], words[2]);
        let mut event = json!({"ev": "message", "lobby": self.name, "kind": command["kind"], "from": from, "at": 0, "body": body});
        let mut ok = json!({});
        if is_durable {
            self.seq += u64::from(lie != Lie::SameSeq);
            event["epoch"] = json!(1);
            event["seq"] = json!(self.seq);
            event["nonce"] = command["nonce"].clone();
            ok = json!({"epoch": 1, "seq": self.seq, "at": 0});
        }
        match lie {
            Lie::NoReply => {}
            Lie::RefuseAndDo => {
                put(own, &json!({"id": command["id"], "err": {"code": "rejected", "message": "no"}}))
            }
            _ => put(own, &json!({"id": command["id"], "ok": ok})),
        }
        if lie == Lie::AckOnly {
            // The hole is filled, so that only the loss itself can be seen.
            event = json!({"ev": "updated", "lobby": self.name, "epoch": 1, "seq": self.seq, "at": 0});
        }
        let last = self.members.len() - 1;
        for (place, member) in self.members.iter_mut().enumerate() {
            member.is_deaf |= lie == Lie::Deaf && place == last;
            if member.is_deaf {
                continue;
            }
            if lie == Lie::Late && place == last {
                member.later = Some(later(member.stream.try_clone().unwrap()));
            }
            if let Some(later) = &member.later {
                later.send((Instant::now() + LATER, event.clone())).unwrap();
                continue;
            }
            match lie {
                Lie::Kind if place == last => {
                    let mut altered = event.clone();
                    altered["kind"] = json!("other");
                    put(&mut member.stream, &altered);
                    continue;
                }
                Lie::Snapshot if place == last => {
                    let state = json!({"host": null, "messages": []});
                    let (name, seq) = (&self.name, self.seq);
                    put(
                        &mut member.stream,
                        &json!({"ev": "snapshot", "lobby": name, "epoch": 1, "seq": seq, "state": state}),
                    );
                    continue;
                }
                Lie::Drop if place == last => continue,
                Lie::Reorder if place == last => {
                    member.late = Some(event.clone());
                    continue;
                }
                Lie::Alter if place == last => {
                    let mut altered = event.clone();
                    altered["body"] = json!(format!("{}!", body));
                    put(&mut member.stream, &altered);
                    continue;
                }
                Lie::Duplicate if place == last => put(&mut member.stream, &event),
                _ => {}
            }
            put(&mut member.stream, &event);
            if let Some(late) = member.late.take() {
                put(&mut member.stream, &late);
            }
        }
        if lie == Lie::TwoSeqs || lie == Lie::Invent {
            self.seq += 1;
            event["seq"] = json!(self.seq);
            if lie == Lie::Invent {
                event["nonce"] = json!("made-up");
            }
            self.members.iter_mut().for_each(|member| put(&mut member.stream, &event));
        }
    }
}

/// Sends each event at its time.
fn later(mut stream: TcpStream) -> mpsc::Sender<(Instant, Value)> {
    let (give, given) = mpsc::channel::<(Instant, Value)>();
    thread::spawn(move || {
        for (at, event) in given {
            while let Some(early) = at.checked_duration_since(Instant::now()) {
                thread::park_timeout(early);
            }
            put(&mut stream, &event);
        }
    });
    give
}

/// One text frame, unmasked as a server's are. A client that is gone does not matter.
fn put(stream: &mut TcpStream, frame: &Value) {
    let text = frame.to_string();
    let mut bytes = vec![0x81];
    if text.len() < 126 {
        bytes.push(text.len() as u8);
    } else {
        bytes.push(126);
        bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    let _ = stream.write_all(&bytes);
}
