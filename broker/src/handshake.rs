//! The player's WebSocket handshake (RFC 6455, section 4.2.1), read into the few fields that go on to a node.
//! The node makes the 101: its `Sec-WebSocket-Accept` answers the player's own key, so there is one handshake end
//! to end, and everything else the player sent ends here.
//!
//! A player who asks only for subprotocols that nobody here speaks gets a 101 without a subprotocol, a `bye` and the
//! close code 4502. That is the code the protocol has for it, and it tells clients that can see it never to come
//! back; a browser fails the connection by itself, as it would at an HTTP error, whose status it cannot see.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use mlms_protocol::CloseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::edge::Body;
use crate::refusal::Refusal;
use crate::tunnel::End;

/// Subprotocols that nodes speak.
const SPOKEN: [&str; 2] = ["mlms.v1.json", "mlms.v1.msgpack"];

/// What a subprotocol starts with that carries the token of a browser.
pub(crate) const BEARER: &str = "bearer.";

/// How long a client has to take its 101, and to follow a close of ours.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What a valid handshake asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// 16 bytes in base64, made by the client.
    pub(crate) key: String,
    pub(crate) subprotocol: Subprotocol,
}

/// The subprotocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subprotocol {
    /// None was asked for: JSON, and none is named in the answer.
    Default,
    /// The first of the client's that nodes speak.
    Spoken(&'static str),
    /// Some were asked for, and none of them is spoken.
    Unsupported,
}

impl Handshake {
    /// Reads a request's head.
    ///
    /// # Errors
    /// `NotWebSocket`, `WebSocketVersion` or `WebSocketKey`.
    pub(crate) fn read(request: &Parts) -> Result<Self, Refusal> {
        let headers = &request.headers;
        let is_upgrade = request.method == Method::GET
            && request.version == Version::HTTP_11
            // RFC 9112 section 3.2: a request without it is bad, and the default check of the origin rests on it.
            && headers.contains_key(header::HOST)
            && has_token(headers, &header::CONNECTION, "upgrade")
            && has_token(headers, &header::UPGRADE, "websocket")
            // A body would be taken for the first bytes of the tunnel.
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
        if !is_upgrade {
            return Err(Refusal::NotWebSocket);
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(Refusal::WebSocketVersion);
        }
        let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter();
        let key = match (keys.next(), keys.next()) {
            (Some(key), None) => key.to_str().map_err(|_| Refusal::WebSocketKey)?.trim(),
            _ => return Err(Refusal::WebSocketKey),
        };
        if key.len() != 24 || STANDARD.decode(key).map(|bytes| bytes.len()) != Ok(16) {
            return Err(Refusal::WebSocketKey);
        }
        Ok(Handshake { key: key.to_owned(), subprotocol: Subprotocol::choose(headers) })
    }

    /// What `Sec-WebSocket-Accept` must be.
    pub(crate) fn accept(&self) -> String {
        derive_accept_key(self.key.as_bytes())
    }

    /// The 101 for the player, with the node's choice of subprotocol.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::try_from(self.accept()).expect("base64 is a header value");
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Subprotocol::Spoken(name) = self.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        response
    }
}

impl Subprotocol {
    fn choose(headers: &HeaderMap) -> Self {
        let mut choice = Subprotocol::Default;
        for asked in subprotocols(headers).filter(|asked| !asked.starts_with(BEARER)) {
            match SPOKEN.into_iter().find(|spoken| *spoken == asked) {
                Some(spoken) => return Subprotocol::Spoken(spoken),
                None => choice = Subprotocol::Unsupported,
            }
        }
        choice
    }
}

/// The subprotocols that a client offers, in its order. Empty elements of a list count for nothing (RFC 9110, section
/// 5.6.1.2).
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offered.map(str::trim).filter(|offered| !offered.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// Waits for the raw connection behind a 101, with what was read past the head.
pub(crate) async fn raw(upgrade: OnUpgrade) -> Option<End> {
    let upgraded = upgrade.await.ok()?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some(End { stream: parts.io.into_inner(), early: parts.read_buf })
}

/// Sends `bye` and the close code 4502 on a connection that got its 101, and waits briefly for the client to go.
pub(crate) async fn close_unsupported(upgrade: OnUpgrade) {
    let farewell = async {
        let mut stream = raw(upgrade).await?.stream;
        stream.write_all(&unsupported_frames()).await.ok()?;
        stream.shutdown().await.ok()?;
        // Closing with unread bytes would send a reset, which may overtake the close frame.
        let mut rest = [0; 512];
        while stream.read(&mut rest).await.ok()? > 0 {}
        Some(())
    };
    // Whether the client waited for the words makes no difference any more.
    let _ = tokio::time::timeout(PATIENCE, farewell).await;
}

fn unsupported_frames() -> Vec<u8> {
    let code = CloseCode::UnsupportedSubprotocol;
    let bye = format!(
        r#"{{"ev":"bye","code":{},"reason":"{}","reconnect":"never"}}"#,
        code.number(),
        code.as_str()
    );
    let mut frames = Vec::new();
    let mut frame = |opcode: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126);
        frames.extend([0x80 | opcode, length.expect("both payloads are short constants")]);
        frames.extend(payload);
    };
    frame(0x1, bye.as_bytes());
    frame(0x8, &[&code.number().to_be_bytes(), code.as_str().as_bytes()].concat());
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().uri("/ws");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const GOOD: [(&str, &str); 5] = [
        ("host", "chat.example"),
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];

    #[test]
    fn a_handshake_is_checked_field_by_field() {
        let good = Handshake::read(&head(&GOOD)).unwrap();
        assert_eq!(good, Handshake { key: KEY.to_owned(), subprotocol: Subprotocol::Default });
        // The example of RFC 6455, section 1.3.
        assert_eq!(good.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

        let check = |name: &str, value: &str, expected: Refusal| {
            let headers: Vec<_> =
                GOOD.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect();
            assert_eq!(Handshake::read(&head(&headers)), Err(expected), "{name}: {value}");
        };
        check("connection", "keep-alive", Refusal::NotWebSocket);
        check("upgrade", "h2c", Refusal::NotWebSocket);
        check("sec-websocket-version", "8", Refusal::WebSocketVersion);
        check("sec-websocket-key", "short", Refusal::WebSocketKey);
        check("sec-websocket-key", "!!!!!!!!!!!!!!!!!!!!!!==", Refusal::WebSocketKey);
        for missing in GOOD {
            let headers: Vec<_> = GOOD.into_iter().filter(|header| *header != missing).collect();
            assert!(Handshake::read(&head(&headers)).is_err(), "without {}", missing.0);
        }
        for body in [("content-length", "5"), ("transfer-encoding", "chunked")] {
            let with_body = [&GOOD[..], &[body]].concat();
            assert_eq!(Handshake::read(&head(&with_body)), Err(Refusal::NotWebSocket), "{body:?}");
        }
        let twice = [&GOOD[..], &[("sec-websocket-key", KEY)]].concat();
        assert_eq!(Handshake::read(&head(&twice)), Err(Refusal::WebSocketKey));
    }

    #[test]
    fn the_first_spoken_subprotocol_is_chosen() {
        let check = |values: &[&str], expected: Subprotocol| {
            let headers: Vec<_> = values.iter().map(|value| ("sec-websocket-protocol", *value)).collect();
            assert_eq!(Subprotocol::choose(&head(&headers).headers), expected, "{values:?}");
        };
        check(&[], Subprotocol::Default);
        check(&[""], Subprotocol::Default);
        check(&[" , ,bearer.a.b.c,"], Subprotocol::Default);
        check(&["bearer.a.b.c"], Subprotocol::Default);
        check(&["mlms.v1.json, bearer.a.b.c"], Subprotocol::Spoken("mlms.v1.json"));
        check(&["bearer.a.b.c", "mlms.v1.msgpack"], Subprotocol::Spoken("mlms.v1.msgpack"));
        check(&["mlms.v2.json,mlms.v1.msgpack,mlms.v1.json"], Subprotocol::Spoken("mlms.v1.msgpack"));
        check(&["mlms.v2.json, bearer.a.b.c"], Subprotocol::Unsupported);
        check(&["chat"], Subprotocol::Unsupported);
    }
}
