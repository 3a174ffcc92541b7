//! One call as its operation gets it, checked and taken apart; and what the operation answers.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use mlms_process::jwt::Claims;
use mlms_protocol::{LobbyId, Role, Seq, SessionId, UserId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use super::Fault;
use super::operation::Operation;
use crate::edge::{Body, Edge};
use crate::page::{is_known, is_meant};
use crate::query::decode;
use crate::refusal::Refusal;
use crate::seam::{self, Frame, SeamCall};

/// Longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 128;
/// Parameters of a query.
const QUERY_MAX: usize = 32;

/// A call whose token is verified and whose body is read.
pub(crate) struct Call<'a> {
    pub(crate) edge: &'a Edge,
    pub(crate) head: &'a Parts,
    pub(crate) peer: IpAddr,
    operation: &'static Operation,
    claims: Option<Claims>,
    path: Vec<(&'static str, String)>,
    query: Vec<(String, String)>,
    body: Bytes,
    /// By which a repeat is recognised.
    nonce: Option<String>,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        edge: &'a Edge,
        operation: &'static Operation,
        head: &'a Parts,
        peer: IpAddr,
        claims: Option<Claims>,
        path: Vec<(&'static str, String)>,
        body: Bytes,
    ) -> Result<Self, Fault> {
        let path: Result<Vec<_>, Refusal> =
            path.into_iter().map(|(name, text)| Ok((name, decode(&text)?))).collect();
        let query = read_query(operation, head.uri.query().unwrap_or(""))?;
        let mut call = Call { edge, head, peer, operation, claims, path: path?, query, body, nonce: None };
        call.nonce = call.read_nonce()?;
        Ok(call)
    }

    /// Who calls.
    pub(crate) fn claims(&self) -> Result<&Claims, Fault> {
        self.claims.as_ref().ok_or(Fault::Edge(Refusal::NoToken))
    }

    /// Whether it is the game's back end, or an operator.
    pub(crate) fn is_service(&self) -> Result<bool, Fault> {
        let claims = self.claims()?;
        Ok(claims.has_role(Role::Server) || claims.has_role(Role::Admin))
    }

    fn segment(&self, name: &str) -> &str {
        let found = self.path.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| text.as_str()).expect("an operation asks for what its path names")
    }

    pub(crate) fn lobby(&self) -> Result<LobbyId, Fault> {
        LobbyId::new(self.segment("lobby")).map_err(|_| Refusal::BadLobby.into())
    }

    pub(crate) fn user(&self) -> Result<UserId, Fault> {
        UserId::new(self.segment("user")).map_err(|_| Refusal::BadPlayer.into())
    }

    pub(crate) fn seq(&self) -> Result<Seq, Fault> {
        number(self.segment("seq")).map(Seq).ok_or_else(|| Fault::bad("`seq` is the number of a message"))
    }

    pub(crate) fn session(&self) -> Result<SessionId, Fault> {
        SessionId::new(self.segment("session")).map_err(|_| Fault::bad("`session` is none"))
    }

    /// A parameter of the query.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        debug_assert!(self.operation.query_names().any(|known| known == name), "{name} is documented");
        self.query.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str())
    }

    /// A parameter of the query that is a number.
    pub(crate) fn query_number(&self, name: &str) -> Result<Option<u64>, Fault> {
        let read = |text| number(text).ok_or_else(|| Fault::bad(format!("`{name}` is a number")));
        self.query(name).map(read).transpose()
    }

    /// How many items a page shall have.
    pub(crate) fn limit(&self, default: u32, max: u32) -> Result<u32, Fault> {
        match self.query_number("limit")? {
            None => Ok(default),
            Some(limit) => match u32::try_from(limit) {
                Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
                _ => Err(Fault::bad(format!("`limit` must be 1 to {max}"))),
            },
        }
    }

    /// The body as the operation takes it; none at all is an empty object.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let bytes: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        // A list would pass for an object whose fields have no names.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refusal::BadBody.into());
        }
        serde_json::from_slice(bytes).map_err(|error| Fault::bad(format!("the body: {error}")))
    }

    /// What stands for the `Idempotency-Key` alone, whatever the body.
    pub(crate) fn key(&self) -> Option<&str> {
        self.nonce.as_deref().and_then(|nonce| nonce.split('.').next())
    }

    /// The nonce that stands for an `Idempotency-Key`: before the dot the same for the same caller, operation, path and
    /// key; behind it a print of the body, by which the owner tells a repeat from another request.
    fn read_nonce(&self) -> Result<Option<String>, Fault> {
        // The other methods are idempotent by themselves.
        let key = self.head.headers.get("idempotency-key").filter(|_| self.head.method == Method::POST);
        let Some(key) = key else { return Ok(None) };
        let is_sane =
            (1..=KEY_BYTES_MAX).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
        if !is_sane {
            return Err(Refusal::BadKey.into());
        }
        let mut digest = Sha256::new();
        let user = self.claims.as_ref().map_or("", |claims| claims.sub.as_str());
        for part in [user.as_bytes(), self.head.method.as_str().as_bytes(), self.head.uri.path().as_bytes()] {
            digest.update(part);
            digest.update([0]);
        }
        digest.update(key.as_bytes());
        let print = hex(&Sha256::digest(&self.body)[..8]);
        Ok(Some(format!("{}.{}", hex(&digest.finalize()[..10]), &print[..15])))
    }

    /// Has the lobby's owner carry out a command, as the caller.
    pub(crate) async fn command(&self, lobby: &LobbyId, frame: Frame) -> Result<Box<RawValue>, Fault> {
        self.ask(Some(lobby), frame, false).await
    }

    /// Like [`Call::command`], if the lobby's newest event is still this one.
    pub(crate) async fn command_expecting(
        &self,
        lobby: &LobbyId,
        frame: Frame,
        expects: Seq,
    ) -> Result<Box<RawValue>, Fault> {
        self.ask_expecting(Some(lobby), frame, false, Some(expects)).await
    }

    /// Has the lobby's owner carry out a command that comes from the service itself.
    pub(crate) async fn command_of_system(
        &self,
        lobby: &LobbyId,
        frame: Frame,
    ) -> Result<Box<RawValue>, Fault> {
        self.ask(Some(lobby), frame, true).await
    }

    /// Has a node, or a lobby's owner, carry out a command.
    pub(crate) async fn ask(
        &self,
        lobby: Option<&LobbyId>,
        frame: Frame,
        system: bool,
    ) -> Result<Box<RawValue>, Fault> {
        self.ask_expecting(lobby, frame, system, None).await
    }

    async fn ask_expecting(
        &self,
        lobby: Option<&LobbyId>,
        frame: Frame,
        system: bool,
        expects: Option<Seq>,
    ) -> Result<Box<RawValue>, Fault> {
        let claims = self.claims()?;
        let frame = match lobby {
            Some(lobby) => frame.with("lobby", lobby),
            None => frame,
        };
        let frame = frame.with_some("nonce", self.nonce.as_ref());
        let (user, name, roles) = (&claims.sub, claims.name.as_deref(), claims.roles.as_slice());
        let call = SeamCall { user, name, roles, system, expects, frame };
        let repeatable = self.nonce.is_some() || self.operation.is_reading();
        seam::ask(self.edge, lobby, &call, repeatable).await
    }
}

/// The parameters that an operation knows; others are ignored, as the protocol grows by additions.
fn read_query(operation: &Operation, text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let mut query: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()).take(QUERY_MAX) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(&name.replace('+', " "))?;
        if operation.query_names().all(|known| known != name) {
            continue;
        }
        if query.iter().any(|(known, _)| *known == name) {
            return Err(Refusal::BadQuery);
        }
        query.push((name, decode(&value.replace('+', " "))?));
    }
    Ok(query)
}

/// Digits only: no sign, no spaces; up to what every JSON reader counts exactly.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number < 1 << 53)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
        text
    })
}

/// What an operation answers.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    body: Bytes,
    /// Of a resource that the caller may have already.
    etag: Option<String>,
    location: Option<Cow<'static, str>>,
}

impl Reply {
    fn new<T: Serialize + ?Sized>(status: StatusCode, body: &T) -> Reply {
        let body = serde_json::to_vec(body).expect("answers of plain fields serialize");
        Reply { status, body: body.into(), etag: None, location: None }
    }

    pub(crate) fn ok<T: Serialize + ?Sized>(body: &T) -> Reply {
        Reply::new(StatusCode::OK, body)
    }

    pub(crate) fn created<T: Serialize + ?Sized>(body: &T) -> Reply {
        Reply::new(StatusCode::CREATED, body)
    }

    /// It is under way, and nothing is promised.
    pub(crate) fn accepted<T: Serialize + ?Sized>(body: &T) -> Reply {
        Reply::new(StatusCode::ACCEPTED, body)
    }

    /// Lets the caller ask whether this is still so. The tag is of the bytes: what the caller may see is part of it.
    pub(crate) fn tagged(mut self) -> Reply {
        self.etag = Some(format!("\"{}\"", hex(&Sha256::digest(&self.body)[..12])));
        self
    }

    /// Whether the caller's `If-Match` names this state.
    pub(super) fn is_meant(&self, request: &HeaderMap) -> bool {
        self.etag.as_ref().is_some_and(|etag| is_meant(request, etag))
    }

    /// A text that is JSON already.
    pub(super) fn of_bytes(body: Bytes) -> Reply {
        Reply { status: StatusCode::OK, body, etag: None, location: None }
    }

    pub(crate) fn at(mut self, location: String) -> Reply {
        self.location = Some(location.into());
        self
    }

    pub(super) fn response(self, request: &HeaderMap) -> Response<Body> {
        let Reply { status, body, etag, location } = self;
        let is_known = etag.as_ref().is_some_and(|etag| is_known(request, etag));
        let mut response = Response::new(if is_known { Body::default() } else { Body::new(body) });
        *response.status_mut() = if is_known { StatusCode::NOT_MODIFIED } else { status };
        let headers = response.headers_mut();
        if !is_known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let caching = if etag.is_some() { "private, no-cache" } else { "no-store" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
        for (name, value) in [(header::ETAG, etag.map(Cow::Owned)), (header::LOCATION, location)] {
            if let Some(value) = value.and_then(|value| HeaderValue::from_str(&value).ok()) {
                headers.insert(name, value);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits() {
        assert_eq!(number("9007199254740991"), Some((1 << 53) - 1));
        for strange in ["", "-1", "+1", " 1", "1.0", "0x1", "9007199254740992", "18446744073709551616"] {
            assert_eq!(number(strange), None, "{strange}");
        }
    }

    #[test]
    fn who_has_it_already_gets_nothing_and_only_then() {
        let tag = Reply::ok("a").tagged().etag.unwrap();
        let ask = |tag: &str| {
            let header = [(header::IF_NONE_MATCH, HeaderValue::from_str(tag).unwrap())];
            Reply::ok("a").tagged().response(&HeaderMap::from_iter(header)).status().as_u16()
        };
        assert_eq!(
            [ask(&tag), ask(&format!("\"x\", W/{tag}")), ask("*"), ask("\"x\"")],
            [304, 304, 304, 200]
        );
    }
}
