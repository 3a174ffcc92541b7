//! The REST side under `/v1`, for game back ends and for players: one table of operations ([`operation`]), one `match`
//! over them here, a file a noun below. What happens in a lobby is its owner's to decide ([`crate::seam`]); what has
//! happened is read from the store. Checks that all share (origin, token, rate, size) stand here, once.

mod bans;
mod call;
mod created;
mod document;
mod games;
mod lobbies;
mod members;
mod messages;
mod operation;
mod personal;
mod rate;
mod reports;
mod request_id;
mod sessions;

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use mlms_process::Problem;

pub(crate) use self::call::{Call, Reply};
pub(crate) use self::created::Created;
pub(crate) use self::document::serve as document;
use self::operation::{Access, Found, Operation, Verb};
pub(crate) use self::rate::UserRate;
pub(crate) use self::request_id::REQUEST_ID;
use crate::credential;
use crate::edge::{Body, Edge};
use crate::metrics::Route;
use crate::passenger::verify_user;
use crate::refusal::Refusal;
use crate::{players, rest};

/// How long a body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// Why a call is refused: by this broker, or by the lobby's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Edge(Refusal),
    Owner(mlms_protocol::Refusal),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Fault::Edge(refusal)
    }
}

impl Fault {
    /// A call that cannot be understood, and what is wrong with it.
    pub(crate) fn bad(what: impl Into<String>) -> Fault {
        let mut what: String = what.into();
        // It may quote the caller.
        if let Some((end, _)) = what.char_indices().nth(200) {
            what.truncate(end);
        }
        Fault::Owner(mlms_protocol::Refusal::new(mlms_protocol::ErrorCode::BadRequest, what))
    }

    fn response(self, edge: &Edge) -> Response<Body> {
        match self {
            Fault::Edge(refusal) => {
                edge.metrics.refused(refusal);
                refusal.response()
            }
            Fault::Owner(refusal) => {
                edge.metrics.refused_by_owner(refusal.code);
                Problem::from(refusal).response()
            }
        }
    }
}

/// Answers a request under `/v1`. Pages of allowed origins may read the answer (CORS), those of others are refused.
pub(crate) async fn answer(edge: &Edge, request: Request<Incoming>, peer: IpAddr) -> (Route, Response<Body>) {
    let (head, body) = request.into_parts();
    let found = operation::find(&head.method, head.uri.path());
    let route = found.route();
    if let Err(refusal) = edge.check_origin(&head.headers) {
        return (route, Fault::from(refusal).response(edge));
    }
    let mut response = match found {
        Found::Nothing => Fault::from(Refusal::NotFound).response(edge),
        Found::Path { allow, .. } if head.method == Method::OPTIONS => preflight(&allow),
        Found::Path { allow, .. } => {
            let mut response = Fault::from(Refusal::Method("")).response(edge);
            let allow = HeaderValue::from_str(&allow).expect("names of methods are a header's value");
            response.headers_mut().insert(header::ALLOW, allow);
            response
        }
        Found::Operation(operation, path) => match run(edge, operation, path, &head, body, peer).await {
            Ok(reply) => reply.response(&head.headers),
            Err(fault) => fault.response(edge),
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = head.headers.get(header::ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let exposed = HeaderValue::from_static("etag, location, retry-after, x-request-id");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    (route, response)
}

/// Gives every answer the number by which its request is found in the log: the caller's own, if it is a sane one.
pub(crate) fn number(request: &HeaderMap) -> HeaderValue {
    request_id::of(request)
}

async fn run(
    edge: &Edge,
    operation: &'static Operation,
    path: Vec<(&'static str, String)>,
    head: &Parts,
    body: Incoming,
    peer: IpAddr,
) -> Result<Reply, Fault> {
    let claims = match operation.access {
        Access::Anybody => None,
        Access::Token | Access::Roles(_) => {
            Some(verify_user(credential::of_request(head)?, &edge.verifier).await?)
        }
    };
    if let Some(claims) = &claims {
        edge.check_ban(&claims.sub)?;
        edge.user_rate.admit(claims).map_err(Fault::Owner)?;
        if let Access::Roles(roles) = operation.access
            && !roles.iter().any(|role| claims.has_role(*role))
        {
            return Err(Refusal::Forbidden.into());
        }
    }
    let body = read_body(head, body, operation.body_bytes_max).await?;
    let call = Call::new(edge, operation, head, peer, claims, path, body)?;
    let call = &call;
    // Boxed, each by itself: as one future they would be as large as the largest, which every connection would hold room
    // for and every request would move.
    let reply: BoxFuture<'_, Result<Reply, Fault>> = match operation.verb {
        Verb::Connect => Box::pin(rest::connect(call)),
        Verb::Guest => Box::pin(std::future::ready(rest::guest(call))),
        Verb::LobbyList => Box::pin(lobbies::list(call)),
        Verb::LobbyCreate => Box::pin(lobbies::create(call)),
        Verb::LobbyGet => Box::pin(lobbies::get(call)),
        Verb::LobbyUpdate => Box::pin(lobbies::update(call)),
        Verb::LobbyClose => Box::pin(lobbies::close(call)),
        Verb::Invite => Box::pin(lobbies::invite(call)),
        Verb::MemberList => Box::pin(members::list(call)),
        Verb::MemberKick => Box::pin(members::kick(call)),
        Verb::MemberRole => Box::pin(members::role(call)),
        Verb::HostSet => Box::pin(members::transfer(call)),
        Verb::LobbyBan => Box::pin(members::restrict(call, "ban")),
        Verb::LobbyUnban => Box::pin(members::release(call, "unban")),
        Verb::LobbyMute => Box::pin(members::restrict(call, "mute")),
        Verb::LobbyUnmute => Box::pin(members::release(call, "unmute")),
        Verb::MessageList => Box::pin(messages::list(call)),
        Verb::MessageSend => Box::pin(messages::send(call)),
        Verb::MessageEdit => Box::pin(messages::edit(call)),
        Verb::MessageDelete => Box::pin(messages::delete(call)),
        Verb::GameStart => Box::pin(games::start(call)),
        Verb::GameReport => Box::pin(games::report(call)),
        Verb::GameFinish => Box::pin(games::finish(call)),
        Verb::GameResults => Box::pin(games::results(call)),
        Verb::LobbyAudit => Box::pin(games::moderation(call)),
        Verb::PlayerSessions => Box::pin(sessions::list(call)),
        Verb::SessionsEnd => Box::pin(sessions::end_all(call)),
        Verb::SessionEnd => Box::pin(sessions::end_one(call)),
        Verb::PlayerExport => Box::pin(personal::export(call)),
        Verb::PlayerErase => Box::pin(personal::erase(call)),
        Verb::BanList => Box::pin(bans::list(call)),
        Verb::BanGet => Box::pin(bans::get(call)),
        Verb::BanSet => Box::pin(bans::set(call)),
        Verb::BanLift => Box::pin(bans::lift(call)),
        Verb::Audit => Box::pin(bans::audit(call)),
        Verb::ReportList => Box::pin(reports::list(call)),
        Verb::PlayerStats => Box::pin(players::stats(call)),
        Verb::PlayerAchievements => Box::pin(players::achievements(call)),
    };
    reply.await
}

fn preflight(allow: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_str(allow).expect("names of methods are a header's value");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    let allowed = HeaderValue::from_static(
        "authorization, content-type, idempotency-key, if-match, if-none-match, x-request-id",
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// Reads the body up to a bound. Where it says what it is, it must be JSON.
async fn read_body(head: &Parts, body: Incoming, bytes_max: usize) -> Result<Bytes, Refusal> {
    let whole = tokio::time::timeout(BODY_PATIENCE, Limited::new(body, bytes_max).collect()).await;
    let bytes = match whole.map_err(|_| Refusal::BodyTooSlow)? {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Refusal::BodyTooLarge),
        Err(_) => return Err(Refusal::BadBody),
    };
    let is_json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
        kind.eq_ignore_ascii_case("application/json")
            || kind.to_ascii_lowercase().ends_with("+json")
            // What curl says of whatever it is given.
            || kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    };
    match head.headers.get(header::CONTENT_TYPE) {
        Some(kind) if !bytes.is_empty() && !is_json(kind) => Err(Refusal::NotJson),
        _ => Ok(bytes),
    }
}
