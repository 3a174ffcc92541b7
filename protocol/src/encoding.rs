//! The two encodings of a frame, and the ready WebSocket bytes around one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How frames of a session are written: chosen by the WebSocket subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// `mlms.v1.json`: text frames.
    Json,
    /// `mlms.v1.msgpack`: binary frames.
    Msgpack,
}

impl Encoding {
    pub const ALL: [Encoding; 2] = [Encoding::Json, Encoding::Msgpack];

    /// The subprotocol's name in `Sec-WebSocket-Protocol`.
    #[must_use]
    pub fn subprotocol(self) -> &'static str {
        match self {
            Encoding::Json => "mlms.v1.json",
            Encoding::Msgpack => "mlms.v1.msgpack",
        }
    }

    #[must_use]
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Encoding::ALL.into_iter().find(|encoding| encoding.subprotocol() == name)
    }

    fn opcode(self) -> u8 {
        match self {
            Encoding::Json => 0x1,
            Encoding::Msgpack => 0x2,
        }
    }

    /// Puts a payload into one unmasked, final WebSocket frame (RFC 6455 section 5.2): the bytes that every
    /// member's socket gets.
    #[must_use]
    pub fn websocket_frame(self, payload: &[u8]) -> Bytes {
        let mut frame = Vec::with_capacity(payload.len() + 10);
        frame.push(0x80 | self.opcode());
        match payload.len() {
            short @ 0..=125 => frame.push(u8::try_from(short).expect("at most 125")),
            medium @ 126..=0xffff => {
                frame.push(126);
                frame.extend_from_slice(&u16::try_from(medium).expect("at most 65535").to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        Bytes::from(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_follow_rfc_6455() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = Encoding::Json.websocket_frame(&vec![b'x'; length]);
            assert_eq!(frame[..header.len()], header);
            assert_eq!(frame.len(), header.len() + length);
        }
        assert_eq!(Encoding::Msgpack.websocket_frame(b"")[0], 0x82);
    }
}
