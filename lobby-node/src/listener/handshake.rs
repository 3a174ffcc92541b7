//! What the handshake of a session says: its ticket, its subprotocol, its lobby. A player who comes straight to the node
//! says it as at a broker; a broker says it in one way only.

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, Version};
use mlms_protocol::Encoding;

/// What a subprotocol begins with that carries the ticket of a browser.
const BEARER: &str = "bearer.";

/// The subprotocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subprotocol {
    /// None was asked for: JSON, and none is named in the answer.
    Default,
    /// The first of the player's that is spoken here.
    Spoken(Encoding),
    /// Some were asked for, and none of them is spoken.
    Unsupported,
}

/// Whether a request wants to become a WebSocket (RFC 6455, section 4.2.1). A body would be taken for its first bytes.
pub(super) fn is_upgrade<B>(request: &Request<B>) -> bool {
    asks_for(request, "websocket")
}

/// Whether a request wants its connection to become this (RFC 9110, section 7.8).
pub(super) fn asks_for<B>(request: &Request<B>, protocol: &str) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_11
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, protocol)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offered.map(str::trim).filter(|offered| !offered.is_empty())
}

impl Subprotocol {
    pub(super) fn choose(headers: &HeaderMap) -> Self {
        let mut choice = Subprotocol::Default;
        for offered in subprotocols(headers).filter(|offered| !offered.starts_with(BEARER)) {
            match Encoding::from_subprotocol(offered) {
                Some(encoding) => return Subprotocol::Spoken(encoding),
                None => choice = Subprotocol::Unsupported,
            }
        }
        choice
    }
}

/// The token of `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The ticket of a session: a browser cannot set headers, and names it among the subprotocols.
pub(super) fn ticket(headers: &HeaderMap) -> Option<&str> {
    bearer(headers).or_else(|| subprotocols(headers).find_map(|offered| offered.strip_prefix(BEARER)))
}

/// The lobby that the address names. Lobby ids need no escapes.
pub(super) fn lobby(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("lobby="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &[(&str, &str)]) -> HeaderMap {
        let mut request = hyper::Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0.headers
    }

    #[test]
    fn a_browser_names_ticket_and_encoding_among_the_subprotocols() {
        let check = |headers: &[(&str, &str)], ticket_of: Option<&str>, expected: Subprotocol| {
            let headers = head(headers);
            assert_eq!(
                (ticket(&headers), Subprotocol::choose(&headers)),
                (ticket_of, expected),
                "{headers:?}"
            );
        };
        let offers = "sec-websocket-protocol";
        check(&[], None, Subprotocol::Default);
        check(&[(offers, "")], None, Subprotocol::Default);
        check(&[(offers, "bearer.a.b.c")], Some("a.b.c"), Subprotocol::Default);
        check(
            &[(offers, "mlms.v1.msgpack, bearer.a.b.c")],
            Some("a.b.c"),
            Subprotocol::Spoken(Encoding::Msgpack),
        );
        check(
            &[(offers, "mlms.v2.json"), (offers, "bearer.a.b.c,mlms.v1.json")],
            Some("a.b.c"),
            Subprotocol::Spoken(Encoding::Json),
        );
        check(&[(offers, "mlms.v2.json, bearer.a.b.c")], Some("a.b.c"), Subprotocol::Unsupported);
        check(
            &[("authorization", "bearer h.h.h"), (offers, "bearer.a.b.c")],
            Some("h.h.h"),
            Subprotocol::Default,
        );
        check(&[("authorization", "Basic dTpw")], None, Subprotocol::Default);
    }

    #[test]
    fn the_address_may_name_a_lobby() {
        for (query, expected) in [
            (None, None),
            (Some(""), None),
            (Some("lobby=den"), Some("den")),
            (Some("x=1&lobby=den"), Some("den")),
            (Some("lobby="), Some("")),
            (Some("my_lobby=den"), None),
        ] {
            assert_eq!(lobby(query), expected, "{query:?}");
        }
    }
}
