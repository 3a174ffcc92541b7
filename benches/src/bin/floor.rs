//! The floor: one thread, one epoll instance, a ready frame for each message, one `send` a delivery. With `--gathered`
//! what one turn of the loop brings leaves in one write a member. Nothing that a service needs beyond that.
//!
//! `floor PORT [--gathered]`

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::Context as _;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use mlms_benches::{Send, frame, greeting, lobby_of, user_of};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const LISTENER: Token = Token(usize::MAX);

struct Session {
    stream: TcpStream,
    inbox: Vec<u8>,
    /// What the socket did not take, or, gathered, what this turn brought.
    outbox: Vec<u8>,
    lobby: usize,
    user: String,
    is_open: bool,
}

struct Floor {
    is_gathered: bool,
    sessions: Vec<Option<Session>>,
    lobbies: Vec<(String, Vec<usize>)>,
    names: HashMap<String, usize>,
    /// Sessions with something to write at the end of this turn.
    touched: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().context("floor PORT [--gathered]")?.parse()?;
    let is_gathered = arguments.next().as_deref() == Some("--gathered");
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
    // As many connections may wait as at the service: else a storm loses its first packets.
    rustix::net::listen(&listener, 16_384)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (sessions, lobbies, names, touched) = Default::default();
    let mut floor = Floor { is_gathered, sessions, lobbies, names, touched };
    let mut events = Events::with_capacity(1_024);
    let mut scratch = vec![0; 64 * 1_024];
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    let place = floor.sessions.len();
                    stream.set_nodelay(true)?;
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(place), interest)?;
                    floor.sessions.push(Some(Session::new(stream)));
                }
                continue;
            }
            if event.is_writable() {
                floor.flush(event.token().0);
            }
            if event.is_readable() {
                floor.read(event.token().0, &mut scratch);
            }
        }
        for place in std::mem::take(&mut floor.touched) {
            floor.flush(place);
        }
    }
}

impl Session {
    fn new(stream: TcpStream) -> Session {
        let (inbox, outbox, user) = Default::default();
        Session { stream, inbox, outbox, lobby: usize::MAX, user, is_open: false }
    }
}

impl Floor {
    fn read(&mut self, place: usize, scratch: &mut [u8]) {
        loop {
            let Some(session) = &mut self.sessions[place] else { return };
            let count = match session.stream.read(scratch) {
                Ok(0) => return self.close(place),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(place),
            };
            session.inbox.extend_from_slice(&scratch[..count]);
            self.take(place);
            if count < scratch.len() {
                return;
            }
        }
    }

    fn take(&mut self, place: usize) {
        let Some(session) = &mut self.sessions[place] else { return };
        let mut inbox = std::mem::take(&mut session.inbox);
        let mut used = 0;
        if !session.is_open {
            let Some(end) = inbox.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                session.inbox = inbox;
                return;
            };
            used = end + 4;
            let head = String::from_utf8_lossy(&inbox[..end]).into_owned();
            self.open(place, &head);
        }
        while let Some((opcode, length)) = unmask(&mut inbox[used..]) {
            let (header, whole) = length;
            if opcode == 8 {
                return self.close(place);
            }
            let text = std::str::from_utf8(&inbox[used + header..used + whole]).unwrap_or_default();
            if opcode == 1
                && let Some(send) = Send::read(text)
            {
                self.send(place, &send);
            }
            used += whole;
        }
        if let Some(session) = &mut self.sessions[place] {
            inbox.drain(..used);
            session.inbox = inbox;
        }
    }

    fn open(&mut self, place: usize, head: &str) {
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).unwrap_or_default()
        };
        let target = head.split(' ').nth(1).unwrap_or_default();
        let name = lobby_of(target).unwrap_or("none").to_owned();
        let user = user_of(header("authorization")).unwrap_or_default();
        let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: mlms.v1.json\r\n\r\n"
        )
        .into_bytes();
        greeting(&name, &user).iter().for_each(|text| frame(&mut answer, text));
        let next = self.lobbies.len();
        let lobby = *self.names.entry(name.clone()).or_insert(next);
        if lobby == next {
            self.lobbies.push((name, Vec::new()));
        }
        self.lobbies[lobby].1.push(place);
        if let Some(session) = &mut self.sessions[place] {
            (session.lobby, session.user, session.is_open) = (lobby, user, true);
        }
        self.write(place, &answer);
    }

    fn send(&mut self, place: usize, send: &Send<'_>) {
        let Some(session) = &self.sessions[place] else { return };
        let lobby = session.lobby;
        let (mut ok, mut event) = (Vec::new(), Vec::new());
        frame(&mut ok, &send.ok());
        frame(&mut event, &send.event(&self.lobbies[lobby].0, &session.user));
        self.write(place, &ok);
        for index in 0..self.lobbies[lobby].1.len() {
            self.write(self.lobbies[lobby].1[index], &event);
        }
    }

    fn write(&mut self, place: usize, bytes: &[u8]) {
        let Some(session) = &mut self.sessions[place] else { return };
        if self.is_gathered {
            if session.outbox.is_empty() {
                self.touched.push(place);
            }
            session.outbox.extend_from_slice(bytes);
            return;
        }
        let written = match session.outbox.is_empty() {
            true => session.stream.write(bytes).unwrap_or(0),
            false => 0,
        };
        session.outbox.extend_from_slice(&bytes[written..]);
    }

    fn flush(&mut self, place: usize) {
        let Some(session) = &mut self.sessions[place] else { return };
        while !session.outbox.is_empty() {
            match session.stream.write(&session.outbox) {
                Ok(written) => drop(session.outbox.drain(..written)),
                Err(_) => return,
            }
        }
    }

    fn close(&mut self, place: usize) {
        let Some(session) = self.sessions[place].take() else { return };
        if let Some((_, members)) = self.lobbies.get_mut(session.lobby) {
            members.retain(|member| *member != place);
        }
    }
}

/// Unmasks one whole frame in place: its opcode, and the lengths of its header and of all of it.
fn unmask(bytes: &mut [u8]) -> Option<(u8, (usize, usize))> {
    let [first, second, ..] = *bytes else { return None };
    let (at, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => return None,
        short => (2, usize::from(short)),
    };
    let whole = at + 4 + length;
    if bytes.len() < whole {
        return None;
    }
    let key = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    bytes[at + 4..whole].iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Some((first & 0x0f, (at + 4, whole)))
}
