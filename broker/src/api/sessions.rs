//! A player's sessions: where they are, and how they are ended.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use mlms_protocol::{NodeName, Role, SessionId, UserId};
use serde::Serialize;

use super::bans::disconnect_and_note;
use super::{Call, Fault, Reply};
use crate::node::{self, Purpose};
use crate::refusal::Refusal;

/// How long a node may take to end sessions.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of a node's answer: a number.
const ANSWER_BYTES_MAX: usize = 1_024;

#[derive(Serialize)]
pub(super) struct SessionAnswer {
    session: SessionId,
    node: NodeName,
}

/// A player for itself, and whoever has a role.
pub(super) fn check_own(call: &Call<'_>, user: &UserId, roles: &[Role]) -> Result<(), Fault> {
    let claims = call.claims()?;
    let may = claims.sub == *user || roles.iter().any(|role| claims.has_role(*role));
    if may { Ok(()) } else { Err(Refusal::Forbidden.into()) }
}

pub(super) async fn of_user(call: &Call<'_>, user: &UserId) -> Result<Vec<SessionAnswer>, Fault> {
    let sessions = call.edge.directory.sessions(user).await.map_err(|error| {
        tracing::debug!(%error, "sessions cannot be looked up");
        Refusal::DirectoryAway
    })?;
    Ok(sessions.into_iter().map(|one| SessionAnswer { session: one.session, node: one.node }).collect())
}

/// `GET /v1/players/{user}/sessions`.
pub(super) async fn list(call: &Call<'_>) -> Result<Reply, Fault> {
    #[derive(Serialize)]
    struct Answer {
        user: UserId,
        sessions: Vec<SessionAnswer>,
    }
    let user = call.user()?;
    check_own(call, &user, &[Role::Server, Role::Admin, Role::Moderator])?;
    let sessions = of_user(call, &user).await?;
    Ok(Reply::ok(&Answer { user, sessions }))
}

#[derive(Serialize)]
struct Closed {
    closed: usize,
}

/// `DELETE /v1/players/{user}/sessions`.
pub(super) async fn end_all(call: &Call<'_>) -> Result<Reply, Fault> {
    let user = call.user()?;
    check_own(call, &user, &[Role::Server, Role::Admin, Role::Moderator])?;
    let closed = disconnect_and_note(call, &user, None).await?;
    Ok(Reply::ok(&Closed { closed }))
}

/// `DELETE /v1/players/{user}/sessions/{session}`.
pub(super) async fn end_one(call: &Call<'_>) -> Result<Reply, Fault> {
    let (user, session) = (call.user()?, call.session()?);
    check_own(call, &user, &[Role::Server, Role::Admin, Role::Moderator])?;
    match disconnect_and_note(call, &user, Some(&session)).await? {
        0 => Err(Refusal::NotFound.into()),
        closed => Ok(Reply::ok(&Closed { closed })),
    }
}

/// Ends a user's sessions (or one of them) at their nodes; gives how many.
pub(super) async fn disconnect(
    call: &Call<'_>,
    user: &UserId,
    only: Option<&SessionId>,
) -> Result<usize, Fault> {
    let edge = call.edge;
    let mut by_node: BTreeMap<NodeName, Vec<SessionId>> = BTreeMap::new();
    for one in of_user(call, user).await? {
        if only.is_none_or(|only| *only == one.session) {
            by_node.entry(one.node).or_default().push(one.session);
        }
    }
    let mut closed = 0;
    for (name, sessions) in by_node {
        let Some(address) = edge.address_of(&name) else { continue };
        let body = Bytes::from(serde_json::to_vec(&sessions).expect("ids serialize"));
        let answer =
            node::post(&address, &edge.keys, Purpose::Disconnect, body, PATIENCE, ANSWER_BYTES_MAX).await;
        match answer {
            Ok((StatusCode::OK, count)) => {
                let count = std::str::from_utf8(&count).ok().and_then(|count| count.parse::<usize>().ok());
                closed += count.unwrap_or(0);
            }
            Ok((status, _)) => {
                tracing::error!(%name, %status, "a node does not understand whom to disconnect");
                return Err(Refusal::NodesFailed.into());
            }
            Err(refusal) => {
                tracing::debug!(%name, %refusal, "a node was not told whom to disconnect");
                edge.metrics.node_failed(&refusal);
                return Err(Refusal::NodesSlow.into());
            }
        }
    }
    Ok(closed)
}
