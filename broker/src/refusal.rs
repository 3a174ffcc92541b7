//! Every way in which the edge says no: one table of status, code, metric label and words, answered as RFC 9457
//! `application/problem+json`.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use mlms_process::Problem;
use mlms_protocol::ErrorCode;

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
    BadKey,
    NotJson,
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
    /// The user is banned from the service.
    Banned,
    /// The token lacks the role that the operation is for.
    Forbidden,
    TooManyConnections,
    TooManyByNode,
    TooManyGuests,
    Busy,
    NoNode,
    NodesFailed,
    NodesSlow,
    /// The command was sent to a node, and no answer came.
    OwnerSilent,
    TicketNodeGone,
    Draining,
    DirectoryAway,
    StoreAway,
    NotFound,
    /// Nobody keeps the user out.
    NoBan,
    /// The `Idempotency-Key` is that of another request.
    KeyReused,
    /// It is not as the caller has it.
    Changed,
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

/// The request itself is wrong.
const fn bad(reason: &'static str, detail: &'static str) -> Answer {
    answer(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, reason, detail)
}

impl Answer {
    const fn retry_after(self, seconds: u32) -> Answer {
        Answer { retry_after_s: Some(seconds), ..self }
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        use ErrorCode as Code;
        const UNAUTHORIZED: StatusCode = StatusCode::UNAUTHORIZED;
        const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
        const TOO_MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            Refusal::NotWebSocket => bad("not_websocket", "This path answers only WebSocket handshakes."),
            Refusal::WebSocketVersion => answer(
                StatusCode::UPGRADE_REQUIRED,
                Code::BadRequest,
                "websocket_version",
                "Only version 13 of the WebSocket protocol is spoken here.",
            ),
            Refusal::WebSocketKey => {
                bad("websocket_key", "Sec-WebSocket-Key must be one header with 16 bytes in base64.")
            }
            Refusal::BadLobby => bad("bad_lobby", "A lobby id has 1 to 64 of A-Z a-z 0-9 _ and -."),
            Refusal::LobbyOfAnotherTicket => bad("ticket_lobby", "The ticket was made for another lobby."),
            Refusal::BadQuery => {
                bad("bad_query", "A query parameter is given twice, or its value does not fit.")
            }
            Refusal::BadHost => bad("bad_host", "One Host header that names a host is needed."),
            Refusal::BadBody => bad("bad_body", "The body is not the JSON object that this path takes."),
            Refusal::BadName => {
                bad("bad_name", "A name has 1 to 64 bytes of text without control characters.")
            }
            Refusal::BadPlayer => {
                bad("bad_player", "A user id has 1 to 128 bytes of text without control characters.")
            }
            Refusal::BadKey => {
                bad("bad_idempotency_key", "An Idempotency-Key has 1 to 128 visible ASCII characters.")
            }
            Refusal::NotJson => answer(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Code::BadRequest,
                "not_json",
                "A body is application/json.",
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
            Refusal::AmbiguousToken => bad("ambiguous_token", "More than one token is given in one place."),
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
            Refusal::Banned => {
                answer(FORBIDDEN, Code::Banned, "banned", "This user is banned from the service.")
            }
            Refusal::Forbidden => {
                answer(FORBIDDEN, Code::Forbidden, "role", "The token has none of the roles that this needs.")
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
                answer(UNAVAILABLE, Code::OwnerUnavailable, "nodes_failed", "No lobby node answered.")
                    .retry_after(1)
            }
            Refusal::NodesSlow => {
                answer(UNAVAILABLE, Code::Timeout, "nodes_slow", "No lobby node answered in time.")
                    .retry_after(2)
            }
            Refusal::OwnerSilent => answer(
                StatusCode::GATEWAY_TIMEOUT,
                Code::Timeout,
                "owner_silent",
                "No answer came in time. It may have happened: repeat it with an Idempotency-Key.",
            )
            .retry_after(1),
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
            Refusal::NoBan => {
                answer(StatusCode::NOT_FOUND, Code::NotFound, "no_ban", "The user is not banned.")
            }
            Refusal::KeyReused => answer(
                StatusCode::CONFLICT,
                Code::Conflict,
                "key_reused",
                "The Idempotency-Key is that of another request.",
            ),
            Refusal::Changed => answer(
                StatusCode::PRECONDITION_FAILED,
                Code::Conflict,
                "if_match",
                "It has changed meanwhile: `If-Match` names another state.",
            ),
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

    /// What stands in the answer.
    pub(crate) fn problem(self) -> Problem {
        let Answer { status, code, detail, retry_after_s, .. } = self.answer();
        let retry_ms = retry_after_s.map(|seconds| u64::from(seconds) * 1_000);
        Problem { status, code, detail: detail.into(), retry_ms }
    }

    /// The HTTP answer.
    pub(crate) fn response(self) -> Response<Body> {
        let mut response = self.problem().response();
        let headers = response.headers_mut();
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
