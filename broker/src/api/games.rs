//! A lobby's games over REST: start, report, finish; and what the database has of them, and of moderation.

use mlms_protocol::{LobbyId, Role, Seq, UserId};
use mlms_store::Topic;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::personal::as_told;
use super::{Call, Fault, Reply};
use crate::players::{away, store};
use crate::seam::Frame;

/// `POST /v1/lobbies/{lobby}/games`.
pub(super) async fn start(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    Ok(Reply::created(&call.command(&lobby, Frame::new("start")).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    stat: String,
    amount: i64,
    user: Option<UserId>,
}

/// `POST /v1/lobbies/{lobby}/games/current/reports`.
pub(super) async fn report(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Report { stat, amount, user } = call.body()?;
    let frame = Frame::new("report").with("stat", &stat).with("amount", &amount);
    let frame = frame.with_some("user", user.as_ref());
    Ok(Reply::created(&call.command(&lobby, frame).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    results: Option<Box<RawValue>>,
}

/// `POST /v1/lobbies/{lobby}/games/current/finish`.
pub(super) async fn finish(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Finish { results } = call.body()?;
    let frame = Frame::new("finish").with_some("results", results.as_ref());
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}

/// Events on a page, and without a `limit`.
const PAGE_MAX: u32 = 100;

/// `GET /v1/lobbies/{lobby}/results`: finished games as the database has them, the newest first. With a role also of
/// lobbies that are closed; else by the lobby's own rules.
pub(super) async fn results(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let claims = call.claims()?;
    if !(call.is_service()? || claims.has_role(Role::Moderator)) {
        call.command(&lobby, Frame::new("history").with("limit", &1)).await?;
    }
    about(call, &lobby, Topic::Results).await
}

/// `GET /v1/lobbies/{lobby}/audit`: what moderators decided there, the newest first.
pub(super) async fn moderation(call: &Call<'_>) -> Result<Reply, Fault> {
    about(call, &call.lobby()?, Topic::Moderation).await
}

async fn about(call: &Call<'_>, lobby: &LobbyId, topic: Topic) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Page {
        events: Vec<Box<RawValue>>,
        more: bool,
    }
    let limit = call.limit(PAGE_MAX, PAGE_MAX)?;
    let before = call.query_number("before")?.map_or(Seq(u64::MAX), Seq);
    let events = store(call)?.events_about(lobby, topic, before, limit + 1).await.map_err(away)?;
    let more = events.len() > limit as usize;
    Ok(Reply::ok(&Page { events: events.iter().take(limit as usize).map(as_told).collect(), more }))
}
