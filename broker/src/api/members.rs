//! A lobby's members over REST: list them, and what moderators do to them.

use mlms_protocol::{MemberRole, UserId};
use serde::Deserialize;

use super::{Call, Fault, Reply};
use crate::seam::Frame;

/// Members on a page, and without a `limit`.
const PAGE_MAX: u32 = 100;

/// `GET /v1/lobbies/{lobby}/members`.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let frame = Frame::new("roster").with("limit", &call.limit(PAGE_MAX, PAGE_MAX)?);
    let frame = frame.with_some("cursor", call.query("cursor").as_ref());
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}

/// `DELETE /v1/lobbies/{lobby}/members/{user}`.
pub(super) async fn kick(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let frame = Frame::new("kick").with("user", &call.user()?);
    let frame = frame.with_some("reason", call.query("reason").as_ref());
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    role: MemberRole,
}

/// `PUT /v1/lobbies/{lobby}/members/{user}/role`.
pub(super) async fn role(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Role { role } = call.body()?;
    let frame = Frame::new("role").with("user", &call.user()?).with("role", &role);
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    user: UserId,
}

/// `PUT /v1/lobbies/{lobby}/host`.
pub(super) async fn transfer(call: &Call<'_>) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Host { user } = call.body()?;
    Ok(Reply::ok(&call.command(&lobby, Frame::new("transfer").with("user", &user)).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restriction {
    for_s: Option<u64>,
    reason: Option<String>,
}

/// `PUT /v1/lobbies/{lobby}/bans/{user}` and `…/mutes/{user}`.
pub(super) async fn restrict(call: &Call<'_>, op: &'static str) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let Restriction { for_s, reason } = call.body()?;
    let frame = Frame::new(op).with("user", &call.user()?);
    let frame = frame.with_some("for_s", for_s.as_ref()).with_some("reason", reason.as_ref());
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}

/// `DELETE /v1/lobbies/{lobby}/bans/{user}` and `…/mutes/{user}`.
pub(super) async fn release(call: &Call<'_>, op: &'static str) -> Result<Reply, Fault> {
    let lobby = call.lobby()?;
    let frame = Frame::new(op).with("user", &call.user()?);
    Ok(Reply::ok(&call.command(&lobby, frame).await?))
}
