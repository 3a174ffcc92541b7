//! The query parameters of a handshake; others are ignored, as the protocol grows by additions.

use mlms_protocol::LobbyId;

use crate::refusal::Refusal;

/// The parameters of a request.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) lobby: Option<LobbyId>,
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is a secret.
        f.debug_struct("Query").field("lobby", &self.lobby).finish_non_exhaustive()
    }
}

impl Query {
    /// Reads what stands behind the `?`.
    ///
    /// # Errors
    /// `BadLobby`, or `BadQuery` for a value that does not fit or stands there twice.
    pub(crate) fn read(text: Option<&str>) -> Result<Self, Refusal> {
        let mut query = Query::default();
        for pair in text.unwrap_or("").split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "lobby" => {
                    put(&mut query.lobby, LobbyId::new(&decode(value)?).map_err(|_| Refusal::BadLobby)?)?
                }
                "token" => put(&mut query.token, decode(value)?)?,
                _ => {}
            }
        }
        Ok(query)
    }
}

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::BadQuery),
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
pub(crate) fn decode(value: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(Refusal::BadQuery) };
        bytes.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits fit a byte"));
    }
    String::from_utf8(bytes).map_err(|_| Refusal::BadQuery)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_parameters_are_read_and_others_ignored() {
        let query = Query::read(Some("lobby=lounge&x=1&token=a.b%2Dc&&y")).unwrap();
        assert_eq!(query.lobby, Some(LobbyId::new("lounge").unwrap()));
        assert_eq!(query.token.as_deref(), Some("a.b-c"));
        assert!(!format!("{query:?}").contains("a.b"));
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let check =
            |text: &str, expected: Refusal| assert_eq!(Query::read(Some(text)), Err(expected), "{text}");
        check("lobby=", Refusal::BadLobby);
        check("lobby=a%20b", Refusal::BadLobby);
        check("lobby=a&lobby=b", Refusal::BadQuery);
        check("lobby=%zz", Refusal::BadQuery);
        check("lobby=%4", Refusal::BadQuery);
        check("token=%ff", Refusal::BadQuery);
    }
}
