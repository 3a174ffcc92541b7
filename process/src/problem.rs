//! How a listener says no: RFC 9457 `application/problem+json` with the codes of the protocol. The broker's and the
//! node's listeners answer with it; what is wrong, each of them knows itself.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use mlms_protocol::{ErrorCode, Refusal};
use serde::Serialize;

/// One refusal as it goes over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub detail: Cow<'static, str>,
    /// There exactly where trying the same again later can help.
    pub retry_ms: Option<u64>,
}

/// The status that a code of the protocol has over HTTP.
#[must_use]
pub fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest | ErrorCode::UnknownOp => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized | ErrorCode::TokenExpired => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden
        | ErrorCode::NotMember
        | ErrorCode::WrongPassword
        | ErrorCode::Banned
        | ErrorCode::Muted => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::LobbyFull | ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::LobbyClosed => StatusCode::GONE,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Rejected => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::SlowMode | ErrorCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::OwnerUnavailable
        | ErrorCode::Overloaded
        | ErrorCode::Degraded
        | ErrorCode::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, message, retry_ms } = refusal;
        Problem { status: status_of(code), code, detail: message.into(), retry_ms }
    }
}

impl Problem {
    /// The answer with its `Retry-After`, never kept by a cache.
    #[must_use]
    pub fn response(&self) -> Response<Full<Bytes>> {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            title: &'static str,
            status: u16,
            code: ErrorCode,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry_ms: Option<u64>,
        }
        let Problem { status, code, detail, retry_ms } = self;
        let body = Body {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: *code,
            detail,
            retry_ms: *retry_ms,
        };
        let body = serde_json::to_vec(&body).expect("a problem of plain fields serializes");
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = *status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(ms) = retry_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_an_error_and_a_pause_is_told_in_whole_seconds() {
        for code in ErrorCode::ALL {
            let status = status_of(*code);
            assert!(status.is_client_error() || status.is_server_error(), "{code}");
            let response = Problem::from(Refusal::new(*code, "so").retry_after(1_001)).response();
            assert_eq!(response.status(), status, "{code}");
            assert_eq!(response.headers()[header::RETRY_AFTER], "2", "{code}");
        }
        let response = Problem::from(Refusal::new(ErrorCode::NotFound, "no")).response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
