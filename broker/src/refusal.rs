//! Every way in which the edge says no: one table of status, code, metric label and words, answered as RFC 9457
//! `application/problem+json`.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use mlms_protocol::ErrorCode;
use serde::Serialize;

use crate::edge::Body;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotWebSocket,
    WebSocketVersion,
    WebSocketKey,
    BadLobby,
    LobbyOfAnotherTicket,
    BadQuery,
    BadHost,
    BadBody,
    BadName,
    BadPlayer,
    BodyTooLarge,
    BodyTooSlow,
    NoToken,
    AmbiguousToken,
    BadToken,
    TokenExpired,
    TicketUsed,
    /// The keys of the tokens cannot be read just now.
    NoTokenKeys,
    Origin,
    ForbiddenByNode,
    TooManyConnections,
    TooManyByNode,
    TooManyGuests,
    Busy,
    NoNode,
    NodesFailed,
    NodesSlow,
    TicketNodeGone,
    Draining,
    DirectoryAway,
    StoreAway,
    NotFound,
    /// The path exists, the method does not; carries what `Allow` says.
    Method(&'static str),
}

struct Answer {
    status: StatusCode,
    code: ErrorCode,
    reason: &'static str,
    detail: &'static str,
    retry_after_s: Option<u32>,
}

const fn answer(status: StatusCode, code: ErrorCode, reason: &'static str, detail: &'static str) -> Answer {
    Answer { status, code, reason, detail, retry_after_s: None }
}

impl Answer {
    const fn retry_after(self, seconds: u32) -> Answer {
        Answer { retry_after_s: Some(seconds), ..self }
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        use ErrorCode as Code;
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
        const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
        const TOO_MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Refusal::NotWebSocket => {
                answer(BAD, Code::BadRequest, "not_websocket", "This path answers only WebSocket handshakes.")
            }
            Refusal::WebSocketVersion => answer(
                StatusCode::UPGRADE_REQUIRED,
                Code::BadRequest,
                "websocket_version",
                "Only version 13 of the WebSocket protocol is spoken here.",
            ),
            Refusal::WebSocketKey => answer(
                BAD,
                Code::BadRequest,
                "websocket_key",
                "Sec-WebSocket-Key must be one header with 16 bytes in base64.",
            ),
            Refusal::BadLobby => {
                answer(BAD, Code::BadRequest, "bad_lobby", "A lobby id has 1 to 64 of A-Z a-z 0-9 _ and -.")
            }
            Refusal::LobbyOfAnotherTicket => {
                answer(BAD, Code::BadRequest, "ticket_lobby", "The ticket was made for another lobby.")
            }
            Refusal::BadQuery => answer(
                BAD,
                Code::BadRequest,
                "bad_query",
                "A query parameter is given twice, or its value does not fit.",
            ),
            Refusal::BadHost => answer(BAD, Code::BadRequest, "bad_host", "The Host header names no host."),
            Refusal::BadBody => answer(
                BAD,
                Code::BadRequest,
                "bad_body",
                "The body is not the JSON object that this path takes.",
            ),
            Refusal::BadName => answer(
                BAD,
                Code::BadRequest,
                "bad_name",
                "A name has 1 to 64 bytes of text without control characters.",
            ),
            Refusal::BadPlayer => answer(
                BAD,
                Code::BadRequest,
                "bad_player",
                "A user id has 1 to 128 bytes of text without control characters.",
            ),
            Refusal::BodyTooLarge => answer(
                StatusCode::PAYLOAD_TOO_LARGE,
                Code::TooLarge,
                "body_too_large",
                "The body is too large.",
            ),
            Refusal::BodyTooSlow => answer(
                StatusCode::REQUEST_TIMEOUT,
                Code::Timeout,
                "body_too_slow",
                "The body did not come in time.",
            ),
            Refusal::NoToken => answer(UNAUTHORIZED, Code::Unauthorized, "no_token", "A token is needed."),
            Refusal::AmbiguousToken => {
                answer(BAD, Code::BadRequest, "ambiguous_token", "More than one token is given in one place.")
            }
            Refusal::BadToken => {
                answer(UNAUTHORIZED, Code::Unauthorized, "bad_token", "The token is not valid.")
            }
            Refusal::TokenExpired => {
                answer(UNAUTHORIZED, Code::TokenExpired, "token_expired", "The token has expired.")
            }
            Refusal::TicketUsed => answer(
                UNAUTHORIZED,
                Code::Unauthorized,
                "ticket_refused",
                "The node does not take the ticket: it is used up, or too old.",
            ),
            Refusal::NoTokenKeys => {
                answer(UNAVAILABLE, Code::Overloaded, "no_token_keys", "Tokens cannot be verified just now.")
                    .retry_after(2)
            }
            Refusal::Origin => {
                answer(FORBIDDEN, Code::Forbidden, "origin", "Pages of this origin may not connect.")
            }
            Refusal::ForbiddenByNode => {
                answer(FORBIDDEN, Code::Forbidden, "forbidden_by_node", "This user may not connect.")
            }
            Refusal::TooManyConnections => answer(
                TOO_MANY,
                Code::RateLimited,
                "connections_per_address",
                "Too many connections from this address.",
            )
            .retry_after(5),
            Refusal::TooManyByNode => {
                answer(TOO_MANY, Code::RateLimited, "limited_by_node", "Too many connections.").retry_after(5)
            }
            Refusal::TooManyGuests => answer(
                TOO_MANY,
                Code::RateLimited,
                "guests_per_address",
                "Too many guests from this address.",
            )
            .retry_after(10),
            Refusal::Busy => {
                answer(UNAVAILABLE, Code::Overloaded, "busy", "Too many connections are being opened.")
                    .retry_after(1)
            }
            Refusal::NoNode => {
                answer(UNAVAILABLE, Code::OwnerUnavailable, "no_node", "No lobby node is ready.")
                    .retry_after(2)
            }
            Refusal::NodesFailed => {
                answer(UNAVAILABLE, Code::OwnerUnavailable, "nodes_failed", "No lobby node took the session.")
                    .retry_after(1)
            }
            Refusal::NodesSlow => {
                answer(UNAVAILABLE, Code::Timeout, "nodes_slow", "No lobby node took the session in time.")
                    .retry_after(2)
            }
            Refusal::TicketNodeGone => answer(
                UNAVAILABLE,
                Code::OwnerUnavailable,
                "ticket_node_gone",
                "The ticket's node is not there any more; ask for a new ticket.",
            )
            .retry_after(1),
            Refusal::Draining => {
                answer(UNAVAILABLE, Code::Overloaded, "draining", "This broker is stopping.").retry_after(1)
            }
            Refusal::StoreAway => {
                answer(UNAVAILABLE, Code::Degraded, "store_away", "The database cannot be read just now.")
                    .retry_after(2)
            }
            Refusal::DirectoryAway => {
                answer(UNAVAILABLE, Code::Degraded, "directory_away", "The list cannot be read just now.")
                    .retry_after(2)
            }
            Refusal::NotFound => {
                answer(StatusCode::NOT_FOUND, Code::NotFound, "not_found", "There is nothing here.")
            }
            Refusal::Method(_) => answer(
                StatusCode::METHOD_NOT_ALLOWED,
                Code::UnknownOp,
                "method",
                "This path does not take this method.",
            ),
        }
    }

    /// The metric label.
    pub(crate) fn reason(self) -> &'static str {
        self.answer().reason
    }

    /// The HTTP answer.
    pub(crate) fn response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Problem {
            #[serde(rename = "type")]
            kind: &'static str,
            title: &'static str,
            status: u16,
            code: ErrorCode,
            detail: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_ms: Option<u32>,
        }
        let Answer { status, code, detail, retry_after_s, .. } = self.answer();
        let problem = Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail,
            retry_ms: retry_after_s.map(|seconds| seconds * 1_000),
        };
        let body = serde_json::to_vec(&problem).expect("a problem of plain fields serializes");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            Refusal::NoToken => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Refusal::BadToken | Refusal::TokenExpired | Refusal::TicketUsed => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Refusal::WebSocketVersion => {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
                // RFC 9110, section 15.5.22: a 426 names what to upgrade to.
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            }
            Refusal::Method(allow) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        response
    }
}
