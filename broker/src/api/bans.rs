//! Bans from the service, and the audit of what was done to users by its powers.

use mlms_protocol::{Millis, UserId};
use mlms_store::{AuditEntry, ServiceBan};
use serde::{Deserialize, Serialize};

use super::sessions::disconnect;
use super::{Call, Fault, Reply};
use crate::passenger::unix_millis;
use crate::players::{away, store};
use crate::refusal::Refusal;

/// Items on a page, and without a `limit`.
const PAGE_MAX: u32 = 100;
/// Longest ban with an end: ten years.
const FOR_S_MAX: u64 = 10 * 365 * 24 * 3_600;
/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 200;

/// `GET /v1/bans`.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Page {
        bans: Vec<ServiceBan>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<UserId>,
    }
    let limit = call.limit(PAGE_MAX, PAGE_MAX)?;
    let after = call.query("cursor").map(UserId::new).transpose().map_err(|_| Refusal::BadPlayer)?;
    let mut bans = store(call)?.bans(after.as_ref(), limit + 1).await.map_err(away)?;
    let more = bans.len() > limit as usize;
    bans.truncate(limit as usize);
    let next = bans.last().filter(|_| more).map(|ban| ban.user.clone());
    Ok(Reply::ok(&Page { bans, next }))
}

/// `GET /v1/bans/{user}`.
pub(super) async fn get(call: &Call<'_>) -> Result<Reply, Fault> {
    let ban = store(call)?.ban(&call.user()?).await.map_err(away)?;
    Ok(Reply::ok(&ban.ok_or(Refusal::NoBan)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restriction {
    for_s: Option<u64>,
    reason: Option<String>,
}

/// `PUT /v1/bans/{user}`: from now on no broker and no node lets the user in, and its sessions end with 4505.
pub(super) async fn set(call: &Call<'_>) -> Result<Reply, Fault> {
    let user = call.user()?;
    let Restriction { for_s, reason } = call.body()?;
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        return Err(Fault::bad("`reason` has at most 200 characters"));
    }
    let at = unix_millis();
    let until = match for_s {
        None => None,
        Some(for_s @ 1..=FOR_S_MAX) => Some(Millis(at.0 + for_s * 1_000)),
        Some(_) => return Err(Fault::bad("`for_s` must be 1 to 315360000 seconds")),
    };
    let ban = ServiceBan { user: user.clone(), at, until, by: call.claims()?.sub.clone(), reason };
    let store = store(call)?;
    store.set_ban(&ban).await.map_err(away)?;
    note(call, "ban", &user, ban.reason.as_deref()).await?;
    // Here it holds at once, elsewhere within a second.
    call.edge.bans.read(store).await.map_err(away)?;
    Ok(Reply::ok(&ban))
}

/// `DELETE /v1/bans/{user}`.
pub(super) async fn lift(call: &Call<'_>) -> Result<Reply, Fault> {
    let user = call.user()?;
    let store = store(call)?;
    let ban = store.ban(&user).await.map_err(away)?.ok_or(Refusal::NoBan)?;
    store.lift_ban(&user).await.map_err(away)?;
    note(call, "unban", &user, None).await?;
    call.edge.bans.read(store).await.map_err(away)?;
    Ok(Reply::ok(&ban))
}

/// Notes in the audit what the caller did to a user.
pub(super) async fn note(
    call: &Call<'_>,
    action: &str,
    user: &UserId,
    detail: Option<&str>,
) -> Result<(), Fault> {
    let by = call.claims()?.sub.clone();
    tracing::info!(%by, action, %user, "a power of the service was used");
    let entry = AuditEntry {
        id: uuid::Uuid::now_v7().simple().to_string(),
        at: unix_millis(),
        by,
        action: action.to_owned(),
        user: user.clone(),
        detail: detail.map(str::to_owned),
    };
    store(call)?.add_audit(&entry).await.map_err(away)
}

/// `GET /v1/audit`.
pub(super) async fn audit(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Page {
        entries: Vec<AuditEntry>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let limit = call.limit(PAGE_MAX, PAGE_MAX)?;
    let user = call.query("user").map(UserId::new).transpose().map_err(|_| Refusal::BadPlayer)?;
    let before = call.query("cursor");
    let is_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !before.is_none_or(is_id) {
        return Err(Fault::bad("`cursor` is not one of this list"));
    }
    let entries = store(call)?.audit(user.as_ref(), before, limit + 1).await;
    let mut entries = entries.map_err(away)?;
    let more = entries.len() > limit as usize;
    entries.truncate(limit as usize);
    let next = entries.last().filter(|_| more).map(|entry| entry.id.clone());
    Ok(Reply::ok(&Page { entries, next }))
}

/// Ends a user's sessions for an operator, and notes it.
pub(super) async fn disconnect_and_note(
    call: &Call<'_>,
    user: &UserId,
    only: Option<&mlms_protocol::SessionId>,
) -> Result<usize, Fault> {
    let closed = disconnect(call, user, only).await?;
    if call.edge.players.is_some() {
        note(call, "disconnect", user, only.map(mlms_protocol::SessionId::as_str)).await?;
    }
    Ok(closed)
}
