//! A look, before the clients come, whether there is somebody at the target who speaks the protocol and takes these
//! tokens: a mistake in an address or a secret ends a run at once, and not after all its phases. Asked by `run.rs`.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustls::ClientConfig;
use serde_json::Value;

use crate::json::Frame;
use crate::target::{Stream, Target};
use crate::token::Credential;
use crate::websocket::{Answer, HEAD_BYTES_MAX, JSON, Opcode, Upgrade, header, write_frame};

/// How long the answer, and `welcome`, may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer's body that are told.
const BODY_BYTES_MAX: usize = 200;

/// Comes as the first of these clients that is let in would, and goes again.
///
/// # Errors
/// None of them is let in, for a reason that does not pass; or whoever answers does not speak the protocol.
pub(crate) fn look(
    target: &Target,
    tls: &Arc<ClientConfig>,
    credentials: &[Credential],
    with_tickets: bool,
) -> anyhow::Result<()> {
    // One bad token among many is the run's to tell.
    let some = [0, credentials.len() / 2, credentials.len().saturating_sub(1)];
    let mut refused = None;
    for credential in some.iter().filter_map(|number| credentials.get(*number)) {
        let outcome = match with_tickets {
            true => ask_for_ticket(target, tls, credential),
            false => enter(target, tls, credential),
        };
        match outcome {
            Ok(None) => return Ok(()),
            Ok(Some(refusal)) => refused = Some(refusal),
            Err(error) if format!("{error:#}").contains("InvalidContentType") => {
                bail!("no client got in: whoever answers there speaks no TLS: write ws://")
            }
            Err(error) => return Err(error.context("no client got in")),
        }
    }
    match refused {
        Some(refusal) => bail!("no client got in: {refusal}"),
        None => Ok(()),
    }
}

/// Gives why it is not let in, if it is not.
fn enter(
    target: &Target,
    tls: &Arc<ClientConfig>,
    credential: &Credential,
) -> anyhow::Result<Option<String>> {
    // Nobody is deceived by a key that is always the same: RFC 6455 wants it against caches.
    let upgrade = Upgrade::new(&target.authority, &target.path, &credential.token, JSON, [7; 16]);
    let mut line = Line::open(target, tls)?;
    line.stream.write_all(&upgrade.request)?;
    let length = loop {
        match Answer::read(&line.bytes).map_err(anyhow::Error::msg)? {
            Some(answer) if upgrade.is_accepted(&answer) => break answer.length,
            Some(answer) if passes(answer.status) => return Ok(None),
            Some(answer) if is_whole(&answer, &line.bytes) => return Ok(Some(refusal(&answer, &line.bytes))),
            _ => line.more("no answer to a handshake")?,
        }
    };
    line.bytes.drain(..length);
    loop {
        let frame = header(&line.bytes).map_err(anyhow::Error::msg)?;
        let Some(frame) = frame.filter(|frame| line.bytes.len() >= frame.length + frame.payload) else {
            ensure!(line.bytes.len() <= HEAD_BYTES_MAX, "what it says first is no welcome");
            line.more("it takes a WebSocket, and no welcome comes")?;
            continue;
        };
        let payload = &line.bytes[frame.length..frame.length + frame.payload];
        match frame.opcode {
            Opcode::Text => {
                let ev = Frame::read(payload).and_then(|frame| frame.ev.map(<[u8]>::to_vec));
                ensure!(ev.as_deref() == Some(b"\"welcome\""), "what it says first is no welcome");
                break;
            }
            Opcode::Ping | Opcode::Pong => drop(line.bytes.drain(..frame.length + frame.payload)),
            _ => bail!("it takes a WebSocket, and closes it before a welcome"),
        }
    }
    let mut goodbye = Vec::new();
    write_frame(&mut goodbye, Opcode::Close, &1000u16.to_be_bytes(), 7);
    // It goes in any case.
    let _ = line.stream.write_all(&goodbye);
    Ok(None)
}

fn ask_for_ticket(
    target: &Target,
    tls: &Arc<ClientConfig>,
    credential: &Credential,
) -> anyhow::Result<Option<String>> {
    let mut line = Line::open(target, tls)?;
    let request = format!(
        "POST /v1/connect HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\nConnection: close\r\n\r\n{{}}",
        target.authority, credential.token
    );
    // In one piece: who answers early would break off the next.
    line.stream.write_all(request.as_bytes())?;
    loop {
        match Answer::read(&line.bytes).map_err(anyhow::Error::msg)? {
            Some(answer) if answer.status / 100 == 2 || passes(answer.status) => return Ok(None),
            Some(answer) if is_whole(&answer, &line.bytes) => {
                return Ok(Some(format!("ticket: {}", refusal(&answer, &line.bytes))));
            }
            _ => line.more("no answer to POST /v1/connect")?,
        }
    }
}

/// Too many at once, or not yet: the run shows what comes of it.
fn passes(status: u16) -> bool {
    status == 429 || status == 503
}

/// Whether as much of the body is there as is told of it.
fn is_whole(answer: &Answer<'_>, bytes: &[u8]) -> bool {
    let length = answer.header("content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    bytes.len() - answer.length >= length.min(HEAD_BYTES_MAX)
}

fn refusal(answer: &Answer<'_>, bytes: &[u8]) -> String {
    let body = String::from_utf8_lossy(&bytes[answer.length..]);
    let told: Option<Value> = serde_json::from_str(&body).ok();
    let word = |name: &str| told.as_ref().and_then(|told| told[name].as_str().map(str::to_owned));
    let what = match (word("code"), word("message")) {
        (Some(code), Some(message)) => format!(": {code}, {message}"),
        (Some(word), None) | (None, Some(word)) => format!(": {word}"),
        (None, None) => String::new(),
    };
    let what: String = what.chars().take(BODY_BYTES_MAX).collect();
    let mend = match answer.status {
        401 | 403 => "; are these tokens of a secret (or an issuer) that the service trusts?",
        404 => "; is this the service's address? Its WebSocket is /ws unless the target names another path",
        426 | 200..=399 => "; is this the service's address? Whoever answers takes no WebSocket there",
        _ => "",
    };
    format!("http {}{what}{mend}", answer.status)
}

/// A connection, and what has come over it.
struct Line {
    stream: Box<dyn Stream>,
    bytes: Vec<u8>,
    end: Instant,
}

impl Line {
    fn open(target: &Target, tls: &Arc<ClientConfig>) -> anyhow::Result<Line> {
        let stream = target.stream(tls, PATIENCE)?;
        Ok(Line { stream, bytes: Vec::new(), end: Instant::now() + PATIENCE })
    }

    /// Waits for more; `missing` says what it was about when nothing comes.
    fn more(&mut self, missing: &str) -> anyhow::Result<()> {
        let mut buffer = [0; 4_096];
        let slow = || format!("{missing} within {} s", PATIENCE.as_secs());
        ensure!(Instant::now() < self.end, slow());
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("{missing}: it closed the connection"),
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => bail!(slow()),
            Err(error) => return Err(error).with_context(|| missing.to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    /// What is told of a server that answers with `answer` and closes.
    fn told(answer: &'static str, with_tickets: bool) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::resolve(&format!("ws://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut request = [0; 4_096];
                let count = stream.read(&mut request).unwrap();
                assert!(count > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let tls = crate::tls::Trust { is_insecure: true, ..Default::default() }.config(&[]).unwrap();
        let credentials = vec![Credential { user: "u".to_owned(), token: "t".to_owned() }; 2];
        look(&target, &tls, &credentials, with_tickets).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn whoever_is_no_service_is_told_apart() {
        let refused =
            "HTTP/1.1 401 x\r\ncontent-length: 39\r\n\r\n{\"code\":\"unauthorized\",\"message\":\"why\"}";
        for (answer, words) in [
            ("HTTP/1.1 200 OK\r\n\r\n<html>", "http 200; is this the service's address?"),
            ("HTTP/1.1 404 Not Found\r\n\r\n", "http 404; is this the service's address?"),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is no HTTP/1.1"),
            ("", "it closed the connection"),
            (refused, "no client got in: http 401: unauthorized, why; are these tokens"),
            ("HTTP/1.1 101 x\r\nSec-WebSocket-Accept: 3ZvyjXyiHwIBVOS2hmUM0Lh/1PQ=\r\n\r\n\u{1}", "http 101"),
        ] {
            let error = told(answer, false).unwrap_err();
            assert!(error.contains(words), "{answer}: {error}");
        }
        assert!(told("HTTP/1.1 404 Not Found\r\n\r\n", true).unwrap_err().contains("ticket: http 404"));
    }

    #[test]
    fn what_may_pass_is_the_runs_to_tell() {
        assert_eq!(told("HTTP/1.1 503 x\r\nretry-after: 1\r\n\r\n", false), Ok(()));
        assert_eq!(told("HTTP/1.1 429 x\r\n\r\n", true), Ok(()));
        assert_eq!(told("HTTP/1.1 200 OK\r\n\r\n{}", true), Ok(()));
    }
}
