//! A lobby's messages over REST: read the history, say something, change what was said.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Call, Fault, Reply};
use crate::seam::Frame;

/// Events on a page, and without a `limit`.
const PAGE_MAX: u32 = 200;
const PAGE: u32 = 50;

/// `GET /v1/lobbies/{lobby}/messages`.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let (before, after) = (call.query_number("before")?, call.query_number("after")?);
    let frame = Frame::new("history").with("limit", &call.limit(PAGE, PAGE_MAX)?);
    let frame = frame.with_some("before", before.as_ref()).with_some("after", after.as_ref());
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    kind: Option<String>,
    body: Box<RawValue>,
    class: Option<String>,
    key: Option<String>,
    to: Option<Box<RawValue>>,
}

/// `POST /v1/lobbies/{lobby}/messages`. A game's back end speaks as the system; a player as the member that it is.
pub(super) async fn send(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Message { kind, body, class, key, to } = call.body()?;
    let frame = Frame::new("send").with("kind", kind.as_deref().unwrap_or("chat")).with("body", &body);
    let frame = frame.with_some("class", class.as_ref()).with_some("key", key.as_ref());
    let frame = frame.with_some("to", to.as_ref());
    let answer = if call.is_service()? {
        call.command_of_system(&lobby, frame).await?
    } else {
        call.command(&lobby, frame).await?
    };
    // A message without a seq is on its way, and nobody will know more of it.
    Ok(if answer.get() == "{}" { Reply::accepted(&answer) } else { Reply::created(&answer) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    body: Box<RawValue>,
}

/// `PATCH /v1/lobbies/{lobby}/messages/{seq}`.
pub(super) async fn edit(call: &Call<'_>) -> Result<Reply, Fault> {
    let Edit { body } = call.body()?;
    about(call, Frame::new("edit").with("body", &body)).await
}

/// `DELETE /v1/lobbies/{lobby}/messages/{seq}`.
pub(super) async fn delete(call: &Call<'_>) -> Result<Reply, Fault> {
    about(call, Frame::new("delete")).await
}

async fn about(call: &Call<'_>, frame: Frame) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let frame = frame.with("seq", &call.seq()?);
    let answer = if call.is_service()? {
        call.command_of_system(&lobby, frame).await?
    } else {
        call.command(&lobby, frame).await?
    };
    Ok(Reply::ok(&answer))
}
