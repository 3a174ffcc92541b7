//! Where a request carries its token. The first place that holds one decides; a bad token there is not made good
//! by another one elsewhere.

use hyper::header;
use hyper::http::request::Parts;

use crate::handshake::{BEARER, subprotocols};
use crate::query::Query;
use crate::refusal::Refusal;

/// The token of a REST request: `Authorization: Bearer`.
///
/// # Errors
/// `NoToken`, or `AmbiguousToken` when two are given.
pub(crate) fn of_request(request: &Parts) -> Result<&str, Refusal> {
    of_header(request)?.ok_or(Refusal::NoToken)
}

/// The token of a handshake: `Authorization: Bearer`, else the subprotocol `bearer.<token>`, else `?token=` where
/// that is allowed.
///
/// # Errors
/// `NoToken`, or `AmbiguousToken` when the deciding place holds two.
pub(crate) fn of_handshake<'a>(
    request: &'a Parts,
    query: &'a Query,
    allowed_in_query: bool,
) -> Result<&'a str, Refusal> {
    if let Some(token) = of_header(request)? {
        return Ok(token);
    }
    let mut offered = subprotocols(&request.headers).filter_map(|offered| offered.strip_prefix(BEARER));
    match (offered.next(), offered.next()) {
        (Some(token), None) => return Ok(token),
        (Some(_), Some(_)) => return Err(Refusal::AmbiguousToken),
        (None, _) => {}
    }
    query.token.as_deref().filter(|_| allowed_in_query).ok_or(Refusal::NoToken)
}

fn of_header(request: &Parts) -> Result<Option<&str>, Refusal> {
    // Other schemes are somebody else's: a proxy in front may ask for a password of its own.
    let values =
        request.headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
    let mut bearers = values.filter_map(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match (bearers.next(), bearers.next()) {
        (_, Some(_)) => Err(Refusal::AmbiguousToken),
        (bearer, None) => Ok(bearer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_holds_a_token_decides() {
        let check =
            |headers: &[(&str, &str)], query: &str, allowed: bool, expected: Result<&str, Refusal>| {
                let mut request = hyper::Request::builder().uri("/ws");
                for (name, value) in headers {
                    request = request.header(*name, *value);
                }
                let (parts, ()) = request.body(()).unwrap().into_parts();
                let query = Query::read(Some(query)).unwrap();
                assert_eq!(of_handshake(&parts, &query, allowed), expected, "{headers:?} ?{query:?}");
            };
        let header = ("authorization", "Bearer h.h.h");
        let protocol = ("sec-websocket-protocol", "mlms.v1.json, bearer.p.p.p");
        check(&[header, protocol], "token=q", true, Ok("h.h.h"));
        check(&[protocol], "token=q", true, Ok("p.p.p"));
        check(&[], "token=q", true, Ok("q"));
        check(&[], "token=q", false, Err(Refusal::NoToken));
        check(&[], "", true, Err(Refusal::NoToken));
        check(&[("authorization", "bearer  h.h.h ")], "", false, Ok("h.h.h"));
        check(&[("authorization", "Basic dTpw"), protocol], "", false, Ok("p.p.p"));
        check(&[("authorization", "Bearer "), protocol], "", false, Ok(""));
        check(&[header, header], "", false, Err(Refusal::AmbiguousToken));
        check(&[protocol, protocol], "", false, Err(Refusal::AmbiguousToken));
    }
}
