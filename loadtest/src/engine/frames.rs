//! Bytes from the server into frames, and frames into JSON texts, whatever the encoding: replies go to `answering.rs`,
//! events to `arriving.rs`.

use super::Engine;
use super::client::Stage;
use crate::json::{Frame, number};
use crate::msgpack;
use crate::websocket::{Opcode, header};

impl Engine {
    /// A socket has bytes.
    pub(super) fn readable(&mut self, place: usize, scratch: &mut [u8], is_ending: bool) {
        let Some(client) = self.clients.get(place) else { return };
        if client.is_slow && matches!(client.stage, Stage::In | Stage::Leaving) {
            return;
        }
        // A short reading means that the socket is dry (epoll(7)); only the end has no event of its own.
        while self.read_once(place, scratch) {}
        if is_ending {
            while self.clients[place].socket.is_some() && self.read_once(place, scratch) {}
            if self.clients[place].socket.is_some() && self.clients[place].stage.is_open() {
                self.read_once(place, scratch);
            }
        }
    }

    /// Takes bytes of one connection, which may hold parts of frames.
    pub(super) fn arrived(&mut self, place: usize, bytes: &[u8]) {
        let client = &mut self.clients[place];
        client.last_heard = self.now;
        let Some(socket) = &mut client.socket else { return };
        if socket.inbox.is_empty() {
            let used = self.frames(place, bytes);
            if let (Some(used), Some(socket)) = (used, &mut self.clients[place].socket) {
                socket.inbox.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        socket.inbox.extend_from_slice(bytes);
        let inbox = std::mem::take(&mut socket.inbox);
        let used = self.frames(place, &inbox);
        if let (Some(used), Some(socket)) = (used, &mut self.clients[place].socket) {
            socket.inbox = inbox;
            socket.inbox.drain(..used);
            if socket.inbox.is_empty() {
                socket.inbox = Vec::new();
            }
        }
    }

    /// Gives the bytes that were whole; `None`: this connection is over.
    fn frames(&mut self, place: usize, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.clients[place].stage.is_handshake() {
            at = self.answered(place, bytes)?;
            if at == 0 {
                return Some(0);
            }
        }
        let connection = self.clients[place].connection;
        loop {
            let rest = &bytes[at..];
            let header = match header(rest) {
                Ok(Some(header)) if rest.len() >= header.length + header.payload => header,
                Ok(_) => return Some(at),
                Err(reason) => {
                    self.broken(place, reason);
                    return None;
                }
            };
            let payload = &rest[header.length..header.length + header.payload];
            at += header.length + header.payload;
            match header.opcode {
                Opcode::Text if self.clients[place].is_msgpack => {
                    self.broken(place, "a text frame on a session of MessagePack");
                }
                Opcode::Binary if !self.clients[place].is_msgpack => {
                    self.broken(place, "a binary frame on a session of JSON");
                }
                Opcode::Text | Opcode::Binary if header.is_final => self.whole(place, payload),
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    self.fragment(place, payload, header.is_final);
                }
                Opcode::Ping => self.pong(place, payload),
                Opcode::Pong => {}
                Opcode::Close => {
                    let code = payload.first_chunk().map_or(1005, |bytes| u16::from_be_bytes(*bytes));
                    self.lost(place, &format!("close {code}"));
                }
            }
            if self.clients[place].connection != connection {
                return None;
            }
        }
    }

    fn fragment(&mut self, place: usize, payload: &[u8], is_final: bool) {
        let Some(socket) = &mut self.clients[place].socket else { return };
        socket.fragments.extend_from_slice(payload);
        if is_final {
            let whole = std::mem::take(&mut socket.fragments);
            self.whole(place, &whole);
        }
    }

    /// Takes a whole message, in the client's encoding.
    fn whole(&mut self, place: usize, payload: &[u8]) {
        if !self.clients[place].is_msgpack {
            return self.text_frame(place, payload);
        }
        let mut text = std::mem::take(&mut self.unpacked);
        text.clear();
        match msgpack::to_json(payload, &mut text) {
            Ok(()) => self.text_frame(place, &text),
            Err(reason) => self.broken(place, reason),
        }
        self.unpacked = text;
    }

    /// The server spoke against the protocol.
    pub(super) fn broken(&mut self, place: usize, reason: &str) {
        let number = self.clients[place].number;
        self.result.faults.add("protocol", 1, || format!("client {number}: {reason}"));
        self.lost(place, "protocol error");
    }

    fn text_frame(&mut self, place: usize, payload: &[u8]) {
        let Some(frame) = Frame::read(payload) else {
            return self.broken(place, "a frame that is no object");
        };
        match frame.ev {
            Some(b"\"message\"") => self.message(place, &frame),
            Some(event) => self.event(place, event, &frame, payload),
            None => match frame.id.and_then(number) {
                Some(id) => self.reply(place, id as u32, &frame),
                None => self.broken(place, "a frame with neither event nor id"),
            },
        }
    }
}
