//! A lobby's games over REST: start, report, finish.

use mlms_protocol::UserId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Call, Fault, Reply};
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
