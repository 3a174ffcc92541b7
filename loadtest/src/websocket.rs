//! The least of RFC 6455 that a client needs: the upgrade request and its answer, headers of frames, masked frames out.
//! No I/O; `engine/socket.rs` reads and writes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Longest answer to an upgrade that is waited for.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Subprotocols: text frames, and binary ones.
pub(crate) const JSON: &str = "mlms.v1.json";
pub(crate) const MSGPACK: &str = "mlms.v1.msgpack";

/// Longest frame that is taken.
pub(crate) const FRAME_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) opcode: Opcode,
    pub(crate) is_final: bool,
    /// Bytes of the header itself.
    pub(crate) length: usize,
    pub(crate) payload: usize,
}

/// Reads the header of a frame from the server. `Ok(None)`: not all of it is there.
///
/// # Errors
/// What the server did against the RFC.
pub(crate) fn header(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a reserved bit is set");
    }
    if second & 0x80 != 0 {
        return Err("a frame from the server is masked");
    }
    let opcode = match first & 0x0f {
        0 => Opcode::Continuation,
        1 => Opcode::Text,
        2 => Opcode::Binary,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return Err("an unknown opcode"),
    };
    let (length, payload) = match second & 0x7f {
        126 => match rest {
            [a, b, ..] => (4, u64::from(u16::from_be_bytes([*a, *b]))),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (10, u64::from_be_bytes(*bytes)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if payload > FRAME_BYTES_MAX {
        return Err("a frame is longer than 64 MiB");
    }
    Ok(Some(Header { opcode, is_final: first & 0x80 != 0, length, payload: payload as usize }))
}

/// Appends one masked frame.
pub(crate) fn write_frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: u32) {
    let code = match opcode {
        Opcode::Continuation => 0,
        Opcode::Text => 1,
        Opcode::Binary => 2,
        Opcode::Close => 8,
        Opcode::Ping => 9,
        Opcode::Pong => 10,
    };
    out.push(0x80 | code);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let key = mask.to_be_bytes();
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// A handshake under way.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) request: Vec<u8>,
    accept: String,
    protocol: &'static str,
}

impl Upgrade {
    pub(crate) fn new(
        authority: &str,
        path: &str,
        token: &str,
        protocol: &'static str,
        nonce: [u8; 16],
    ) -> Upgrade {
        let key = STANDARD.encode(nonce);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\
             Authorization: Bearer {token}\r\nUser-Agent: loadtest/{}\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        Upgrade { request: request.into_bytes(), accept: accept(&key), protocol }
    }

    /// Whether the answer completes this handshake.
    pub(crate) fn is_accepted(&self, answer: &Answer<'_>) -> bool {
        let protocol = answer.header("sec-websocket-protocol");
        answer.status == 101
            && answer.header("sec-websocket-accept") == Some(self.accept.as_str())
            && (protocol == Some(self.protocol) || (protocol.is_none() && self.protocol == JSON))
    }
}

fn accept(key: &str) -> String {
    use aws_lc_rs::digest;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// The head of an HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    /// Bytes of the head, the empty line included.
    pub(crate) length: usize,
    head: &'a str,
}

impl<'a> Answer<'a> {
    /// `Ok(None)`: not all of it is there.
    ///
    /// # Errors
    /// It is no answer of HTTP/1.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Option<Answer<'a>>, &'static str> {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
            return if bytes.len() > HEAD_BYTES_MAX {
                Err("the answer's head is too long")
            } else {
                Ok(None)
            };
        };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "the answer's head is no text")?;
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .or(head.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or("the answer is no HTTP/1.1")?;
        Ok(Some(Answer { status, length: end + 4, head }))
    }

    pub(crate) fn header(&self, wanted: &str) -> Option<&'a str> {
        self.head.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_rfc_is_accepted() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frames_of_every_length_have_the_right_header() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let mut out = Vec::new();
            write_frame(&mut out, Opcode::Text, &vec![7; length], 0x0102_0304);
            // The server's side of it: no mask.
            out[1] &= 0x7f;
            let header = header(&out).unwrap().unwrap();
            assert_eq!((header.opcode, header.is_final, header.payload), (Opcode::Text, true, length));
            let unmasked = out[header.length + 4..].iter().zip([1u8, 2, 3, 4].iter().cycle());
            assert!(unmasked.map(|(byte, key)| byte ^ key).all(|byte| byte == 7));
            for part in 0..header.length {
                assert_eq!(super::header(&out[..part]), Ok(None));
            }
        }
    }

    #[test]
    fn what_a_server_must_not_send_is_refused() {
        assert!(header(&[0xc1, 0]).is_err());
        assert!(header(&[0x81, 0x80]).is_err());
        assert!(header(&[0x83, 0]).is_err());
        assert!(header(&[0x82, 127, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn an_answer_is_read_without_regard_to_case() {
        let bytes = b"HTTP/1.1 503 Service Unavailable\r\nretry-AFTER:  2 \r\n\r\nbody";
        let answer = Answer::read(bytes).unwrap().unwrap();
        assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("2")));
        assert_eq!(&bytes[answer.length..], b"body");
        assert!(Answer::read(b"HTTP/1.1 503").unwrap().is_none());
        assert!(Answer::read(b"SSH-2.0\r\n\r\n").is_err());
    }
}
