//! The way of a REST caller's commands to a lobby's owner: any node takes them and forwards what is not its own. The
//! broker names the caller, whose token it has verified, and does not know the rules.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use mlms_protocol::{ErrorCode, LobbyId, Role, Seq, UserId};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use crate::api::Fault;
use crate::edge::Edge;
use crate::node::{self, NodeRefusal, Purpose};
use crate::refusal::Refusal;

/// A node's own time for a command is 4 s; it answers within it, whatever becomes of the owner.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a reply: a page of the longest messages, each byte of which JSON may write as six.
const REPLY_BYTES_MAX: usize = 96 * 1024 * 1024;
/// Nodes that are tried.
const ATTEMPTS_MAX: usize = 3;

/// A command as on a socket, field by field.
pub(crate) struct Frame(Vec<(&'static str, Box<RawValue>)>);

impl Frame {
    pub(crate) fn new(op: &'static str) -> Frame {
        Frame(Vec::new()).with("op", &op)
    }

    pub(crate) fn with<T: Serialize + ?Sized>(mut self, name: &'static str, value: &T) -> Frame {
        self.0.push((name, to_raw_value(value).expect("plain values serialize")));
        self
    }

    pub(crate) fn with_some<T: Serialize>(self, name: &'static str, value: Option<&T>) -> Frame {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

impl Serialize for Frame {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A call as a node takes it.
#[derive(Serialize)]
pub(crate) struct SeamCall<'a> {
    pub(crate) user: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    pub(crate) roles: &'a [Role],
    /// The service itself says it.
    pub(crate) system: bool,
    /// The lobby's newest event as the caller knows it; the owner refuses where it has gone on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expects: Option<Seq>,
    pub(crate) frame: Frame,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    ok: Option<&'a RawValue>,
    err: Option<mlms_protocol::Refusal>,
}

/// Asks a lobby's owner (or, without a lobby, the user's node), and gives the `ok` as it came. `repeatable`: it may be
/// asked again when nobody knows whether it happened.
///
/// # Errors
/// What the owner says no with, or that none could be asked.
pub(crate) async fn ask(
    edge: &Edge,
    lobby: Option<&LobbyId>,
    call: &SeamCall<'_>,
    repeatable: bool,
) -> Result<Box<RawValue>, Fault> {
    let nodes = edge.nodes_for(call.user, lobby);
    if nodes.is_empty() {
        return Err(Refusal::NoNode.into());
    }
    let body = Bytes::from(serde_json::to_vec(call).expect("a call of plain values serializes"));
    let mut outcome = Refusal::NodesFailed;
    for (name, address) in nodes.iter().take(ATTEMPTS_MAX) {
        let answer =
            node::post(address, &edge.keys, Purpose::Command, body.clone(), PATIENCE, REPLY_BYTES_MAX).await;
        let failure = match answer {
            Ok((StatusCode::OK, reply)) => return read(&reply),
            Ok((StatusCode::SERVICE_UNAVAILABLE, _)) => NodeRefusal::Unavailable,
            Ok((status, _)) => {
                tracing::error!(%name, %status, "a node does not understand a command");
                return Err(Refusal::NodesFailed.into());
            }
            Err(failure) => failure,
        };
        tracing::debug!(%name, %failure, "a node does not answer a command");
        edge.metrics.node_failed(&failure);
        match failure {
            NodeRefusal::Connect(_) | NodeRefusal::ConnectTimeout | NodeRefusal::Unavailable => {}
            // It may have happened.
            _ if repeatable => outcome = Refusal::NodesSlow,
            _ => return Err(Refusal::OwnerSilent.into()),
        }
    }
    Err(outcome.into())
}

fn read(reply: &[u8]) -> Result<Box<RawValue>, Fault> {
    match serde_json::from_slice::<Reply<'_>>(reply) {
        Ok(Reply { ok: Some(ok), .. }) => Ok(ok.to_owned()),
        Ok(Reply { err: Some(refusal), .. }) => Err(Fault::Owner(refusal)),
        _ => {
            // A node of the next release may know more codes than this one.
            let text = "the lobby's owner answered what this release does not understand";
            Err(Fault::Owner(mlms_protocol::Refusal::new(ErrorCode::Internal, text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_keeps_a_body_to_the_last_digit() {
        let body: Box<RawValue> =
            serde_json::from_str("{\"n\": 12345678901234567890123, \"f\":1.10}").unwrap();
        let frame = Frame::new("send").with("lobby", "a").with("body", &body).with_some::<u32>("x", None);
        assert_eq!(
            serde_json::to_string(&frame).unwrap(),
            "{\"op\":\"send\",\"lobby\":\"a\",\"body\":{\"n\": 12345678901234567890123, \"f\":1.10}}"
        );
    }

    #[test]
    fn a_reply_is_an_ok_or_a_refusal() {
        assert_eq!(read(br#"{"id":0,"ok":{"seq":7}}"#).unwrap().get(), r#"{"seq":7}"#);
        let code = |reply: &str| match read(reply.as_bytes()) {
            Err(Fault::Owner(refusal)) => (refusal.code, refusal.retry_ms),
            other => panic!("{other:?}"),
        };
        let slow = r#"{"id":0,"err":{"code":"slow_mode","message":"wait","retry_ms":5}}"#;
        assert_eq!(code(slow), (ErrorCode::SlowMode, Some(5)));
        for strange in ["{}", "[]", "", r#"{"err":{"code":"brand_new","message":""}}"#] {
            assert_eq!(code(strange), (ErrorCode::Internal, None), "{strange}");
        }
    }
}
