//! Values that last: of the durable messages with a key the newest of each, shown to whoever comes later.

use std::collections::BTreeMap;
use std::sync::Arc;

use mlms_protocol::command::Send;
use mlms_protocol::{Body, Change, Class, ErrorCode, LobbyEvent, Refusal, Seq, UserId};
use serde::{Deserialize, Serialize};

use super::decide::refuse;

/// Values that one lobby retains at most, and their bytes: they stand in every snapshot and in every newcomer's `state`.
const RETAINED_MAX: usize = 64;
const RETAINED_BYTES_MAX: usize = 64 * 1024;

/// By key. Null takes a value away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Retained(BTreeMap<String, Arc<LobbyEvent>>);

fn is_null(body: &Body) -> bool {
    *body == Body::json(&serde_json::Value::Null)
}

fn cost(key: &str, event: &LobbyEvent) -> usize {
    let Change::Message { body, .. } = &event.change else { return key.len() };
    key.len() + body.byte_len()
}

impl Retained {
    pub(super) fn apply(&mut self, event: &Arc<LobbyEvent>) {
        match &event.change {
            Change::Message { key: Some(key), body, .. } if is_null(body) => _ = self.0.remove(key),
            Change::Message { key: Some(key), .. } => _ = self.0.insert(key.clone(), Arc::clone(event)),
            Change::Edited { of, body, .. } => self.alter(*of, Some(body)),
            Change::Deleted { of, .. } => self.alter(*of, None),
            Change::Closed { .. } => self.0.clear(),
            _ => {}
        }
    }

    /// An edit gives a value another body; what was deleted does not last.
    fn alter(&mut self, of: Seq, body: Option<&Body>) {
        let known = self.0.iter_mut().find(|(_, event)| event.seq == of);
        let Some((key, event)) = known.map(|(key, event)| (key.clone(), event)) else { return };
        match body.and_then(|body| event.with_body(Some(body))) {
            Some(altered) => *event = Arc::new(altered),
            None => _ = self.0.remove(&key),
        }
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Arc<LobbyEvent>> {
        self.0.values().find(|event| event.seq == seq)
    }

    /// Takes away what a user has set.
    pub(super) fn forget(&mut self, user: &UserId) {
        self.0.retain(
            |_, event| !matches!(&event.change, Change::Message { from: Some(from), .. } if from == user),
        );
    }

    /// Whether there is room for a message's value, if it is to last.
    pub(super) fn check(&self, send: &Send) -> Result<(), Refusal> {
        let Some(key) = send.key.as_ref().filter(|_| send.class == Class::Durable) else { return Ok(()) };
        if is_null(&send.body) {
            return Ok(());
        }
        let others = || self.0.iter().filter(|(known, _)| *known != key);
        let bytes: usize = others().map(|(key, event)| cost(key, event)).sum();
        if others().count() >= RETAINED_MAX {
            return refuse(ErrorCode::Conflict, "the lobby retains 64 values; take one away with a null");
        }
        if bytes + key.len() + send.body.byte_len() > RETAINED_BYTES_MAX {
            return refuse(
                ErrorCode::Conflict,
                "the lobby retains at most 65536 bytes; take a value away with a null",
            );
        }
        Ok(())
    }

    /// In the order in which they were said.
    pub(super) fn ascending(&self) -> Vec<LobbyEvent> {
        let mut events: Vec<_> = self.0.values().map(|event| LobbyEvent::clone(event)).collect();
        events.sort_by_key(|event| event.seq);
        events
    }
}
