//! As much of the protocol as the peers here need so that the load test can drive and check them: one `welcome`, one
//! `snapshot`, one message. No lobby rules, no history, no resume: they are measured against, not offered.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// A `send`, its values as they stand.
#[derive(Debug, Deserialize)]
pub struct Send<'a> {
    #[serde(default)]
    pub id: u32,
    pub op: &'a str,
    #[serde(default)]
    pub kind: &'a str,
    #[serde(borrow)]
    pub body: Option<&'a RawValue>,
}

impl<'a> Send<'a> {
    /// Reads a command; `None`: it is no message.
    pub fn read(text: &'a str) -> Option<Send<'a>> {
        serde_json::from_str(text).ok().filter(|send: &Send<'a>| send.op == "send" && send.body.is_some())
    }

    /// The event that everyone gets, for an unsequenced message.
    pub fn event(&self, lobby: &str, user: &str) -> String {
        let body = self.body.map_or("null", RawValue::get);
        let kind = self.kind;
        format!(
            "{{\"ev\":\"message\",\"lobby\":\"{lobby}\",\"kind\":\"{kind}\",\"from\":\"{user}\",\"at\":0,\"body\":{body}}}"
        )
    }

    pub fn ok(&self) -> String {
        format!("{{\"id\":{},\"ok\":{{}}}}", self.id)
    }
}

/// Whose token it is. Nothing is verified here.
pub fn user_of(authorization: &str) -> Option<String> {
    let claims = authorization.split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims["sub"].as_str().map(str::to_owned)
}

/// The lobby that `?lobby=` names.
pub fn lobby_of(target: &str) -> Option<&str> {
    target.split_once("lobby=").map(|(_, lobby)| lobby.split('&').next().unwrap_or(lobby))
}

/// What a session gets first.
pub fn greeting(lobby: &str, user: &str) -> [String; 2] {
    let welcome = json!({"ev": "welcome", "session": "1", "user": user, "node": "peer", "heartbeat_ms": 25_000, "limits": {}, "now": 0});
    let state = json!({"settings": {}, "host": null, "members": [], "members_total": 0, "game": null, "messages": []});
    let snapshot = json!({"ev": "snapshot", "lobby": lobby, "epoch": 1, "seq": 0, "state": state});
    [welcome.to_string(), snapshot.to_string()]
}

/// One unmasked text frame.
pub fn frame(out: &mut Vec<u8>, text: &str) {
    out.push(0x81);
    match text.len() {
        short @ 0..126 => out.push(short as u8),
        middle @ 126..65_536 => {
            out.push(126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_body() {
        let send =
            Send::read(r#"{"id":7,"op":"send","kind":"game","class":"ordered","body":"a\"b"}"#).unwrap();
        assert_eq!(
            send.event("l", "ann"),
            r#"{"ev":"message","lobby":"l","kind":"game","from":"ann","at":0,"body":"a\"b"}"#
        );
        assert_eq!(send.ok(), r#"{"id":7,"ok":{}}"#);
        assert!(Send::read(r#"{"op":"ping"}"#).is_none());
    }
}
