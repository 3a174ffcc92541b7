//! Lobbies over REST: list, create, look at, change, close, invite.

use std::time::Instant;

use hyper::header;
use mlms_protocol::{ErrorCode, LobbyId, Seq};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Call, Fault, Reply};
use crate::page::is_meant;
use crate::refusal::Refusal;
use crate::seam::Frame;

/// Lobbies on a page of the list, and without a `limit`.
const PAGE_MAX: u32 = 100;
const PAGE: u32 = 50;

/// An owner's answer with the name of what it is about.
#[derive(Serialize)]
struct Named<'a> {
    lobby: &'a LobbyId,
    #[serde(flatten)]
    answer: Map<String, Value>,
}

/// `GET /v1/lobbies`: public lobbies, ascending by id; with a filter in the filter's order.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Page {
        lobbies: Vec<mlms_cluster::view::LobbySummary>,
        /// What to give as `cursor` for the next page; not there on the last.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<LobbyId>,
    }
    let limit = call.limit(PAGE, PAGE_MAX)?;
    if let Some(filter) = call.query("filter") {
        let filter: Map<String, Value> =
            serde_json::from_str(filter).map_err(|_| Fault::bad("`filter` is a JSON object"))?;
        let frame = Frame::new("find").with("filter", &filter).with("limit", &limit);
        let frame = frame.with_some("cursor", call.query("cursor").as_ref());
        return Ok(Reply::ok(&call.ask(None, frame, false).await?));
    }
    let cursor = call.query("cursor").map(LobbyId::new).transpose();
    let cursor = cursor.map_err(|_| Fault::bad("`cursor` is not one of this list"))?;
    let limit = limit as usize;
    // One more than asked for tells whether there is a next page.
    let found = call.edge.directory.lobbies(cursor.as_ref(), limit + 1).await;
    let mut lobbies = found.map_err(|error| {
        tracing::debug!(%error, "lobbies cannot be listed");
        Refusal::DirectoryAway
    })?;
    let more = lobbies.len() > limit;
    lobbies.truncate(limit);
    let next = lobbies.last().filter(|_| more).map(|last| last.lobby.clone());
    Ok(Reply::ok(&Page { lobbies, next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    lobby: Option<LobbyId>,
    settings: Option<Map<String, Value>>,
}

/// `POST /v1/lobbies`. Without an id the lobby gets one that nobody guesses; with an `Idempotency-Key` a repeat gets
/// the same.
pub(super) async fn create(call: &Call<'_>) -> Result<Reply, Fault> {
    let Create { lobby, settings } = call.body()?;
    let lobby = match lobby {
        Some(lobby) => lobby,
        None => {
            let id = match call.key() {
                // Nobody else knows the key.
                Some(key) => key.to_owned(),
                None => uuid::Uuid::new_v4().simple().to_string(),
            };
            LobbyId::new(&id).map_err(|_| Refusal::BadLobby)?
        }
    };
    let frame = Frame::new("create").with("settings", &settings.unwrap_or_default());
    let created = &call.edge.created;
    if let Some(key) = call.key()
        && !created.note(key, &lobby, Instant::now())
    {
        return Err(Refusal::KeyReused.into());
    }
    let answer = call.command(&lobby, frame).await.inspect_err(|fault| {
        // Of what was not answered nobody knows whether it was created.
        if let (Some(key), Fault::Owner(_)) = (call.key(), fault) {
            created.give_back(key, &lobby);
        }
    })?;
    let answer = object(&answer)?;
    Ok(Reply::created(&Named { lobby: &lobby, answer }).at(format!("/v1/lobbies/{lobby}")))
}

/// `GET /v1/lobbies/{lobby}`.
pub(super) async fn get(call: &Call<'_>) -> Result<Reply, Fault> {
    look(call, &call.lobby()?).await
}

async fn look(call: &Call<'_>, lobby: &LobbyId) -> Result<Reply, Fault> {
    let answer = object(&call.command(lobby, Frame::new("look")).await?)?;
    Ok(Reply::ok(&Named { lobby, answer }).tagged())
}

/// Has the owner change a lobby. Where the caller says how it has the lobby, that is looked at first, and the owner
/// refuses if anything has happened since.
async fn change(call: &Call<'_>, lobby: &LobbyId, frame: Frame) -> Result<Reply, Fault> {
    if !call.head.headers.contains_key(header::IF_MATCH) {
        return Ok(Reply::ok(&call.command(lobby, frame).await?));
    }
    let answer = object(&call.command(lobby, Frame::new("look")).await?)?;
    let seq = answer.get("seq").and_then(Value::as_u64).map(Seq).ok_or(Refusal::NodesFailed)?;
    if !Reply::ok(&Named { lobby, answer }).tagged().is_meant(&call.head.headers) {
        return Err(Refusal::Changed.into());
    }
    if is_meant(&call.head.headers, "*") {
        return Ok(Reply::ok(&call.command(lobby, frame).await?));
    }
    match call.command_expecting(lobby, frame, seq).await {
        // These commands know no other conflict.
        Err(Fault::Owner(refusal)) if refusal.code == ErrorCode::Conflict => Err(Refusal::Changed.into()),
        outcome => Ok(Reply::ok(&outcome?)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    settings: Map<String, Value>,
}

/// `PATCH /v1/lobbies/{lobby}`.
pub(super) async fn update(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Update { settings } = call.body()?;
    change(call, &lobby, Frame::new("update").with("settings", &settings)).await
}

/// `DELETE /v1/lobbies/{lobby}`.
pub(super) async fn close(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    change(call, &lobby, Frame::new("close")).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    uses: Option<u32>,
    for_s: Option<u64>,
}

/// `POST /v1/lobbies/{lobby}/invites`.
pub(super) async fn invite(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Invite { uses, for_s } = call.body()?;
    let frame = Frame::new("invite").with_some("uses", uses.as_ref()).with_some("for_s", for_s.as_ref());
    Ok(Reply::created(&call.command(&lobby, frame).await?))
}

fn object(answer: &RawValue) -> Result<Map<String, Value>, Fault> {
    serde_json::from_str(answer.get()).map_err(|_| Refusal::NodesFailed.into())
}
