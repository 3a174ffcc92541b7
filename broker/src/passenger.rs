//! Who a token speaks for, and the ticket by which the broker vouches for it.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use mlms_process::jwt::{Claims, TokenError, Verifier};
use mlms_protocol::ticket::{ClusterKeys, TICKET_TTL_MS, TICKET_VERSION, Ticket, TicketError};
use mlms_protocol::{LobbyId, Millis, NodeName, SessionId, UserId};

use crate::refusal::Refusal;

/// The bearer of a token at a handshake.
#[derive(Debug)]
pub(crate) enum Passenger {
    /// A user, with a token of the users' issuer.
    User(Claims),
    /// A user who was given a ticket by `POST /v1/connect`: it names the node.
    Ticketed(Box<Ticket>),
}

impl Passenger {
    pub(crate) fn user(&self) -> &UserId {
        match self {
            Passenger::User(claims) => &claims.sub,
            Passenger::Ticketed(ticket) => &ticket.user,
        }
    }

    /// Verifies a token or a ticket.
    ///
    /// # Errors
    /// `BadToken`, `TokenExpired`, or `NoTokenKeys`.
    pub(crate) async fn identify(
        token: &str,
        keys: &ClusterKeys,
        verifier: &Verifier,
    ) -> Result<Self, Refusal> {
        match keys.open(token) {
            Ok(ticket) => Ok(Passenger::Ticketed(Box::new(ticket))),
            Err(TicketError::Expired) => Err(Refusal::TokenExpired),
            Err(TicketError::Version(_)) => Err(Refusal::BadToken),
            // Not signed by the cluster: a user's own token, or nothing at all.
            Err(TicketError::Invalid) => verify_user(token, verifier).await.map(Passenger::User),
        }
    }
}

/// Verifies a user's token.
///
/// # Errors
/// `BadToken`, `TokenExpired`, or `NoTokenKeys`.
pub(crate) async fn verify_user(token: &str, verifier: &Verifier) -> Result<Claims, Refusal> {
    verifier.verify(token).await.map_err(|error| match error {
        TokenError::Expired => Refusal::TokenExpired,
        TokenError::Bad(why) => {
            tracing::debug!(why, "a token is refused");
            Refusal::BadToken
        }
        TokenError::KeysUnavailable => Refusal::NoTokenKeys,
    })
}

/// A ticket for a new session of a user on a node.
pub(crate) fn ticket(claims: &Claims, address: IpAddr, lobby: Option<LobbyId>, node: NodeName) -> Ticket {
    Ticket {
        v: TICKET_VERSION,
        exp: unix_seconds() + TICKET_TTL_MS / 1_000,
        session: SessionId::generate(),
        user: claims.sub.clone(),
        name: claims.name.clone(),
        roles: claims.roles.clone(),
        token_expires_at: Millis(claims.exp.saturating_mul(1_000)),
        address: address.to_string(),
        lobby,
        node,
    }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
