//! The ticket: a short-lived JWT, signed with the cluster key, by which a broker hands one session to one node.
//! A node accepts nothing else at connect, so a forged header opens no door.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::code::Role;
use crate::ids::{LobbyId, Millis, NodeName, SessionId, UserId};

/// Format of the tickets that this release writes; it reads this one and the one before.
pub const TICKET_VERSION: u8 = 1;

/// How long a ticket may wait to be used.
pub const TICKET_TTL_MS: u64 = 30_000;

/// What a broker vouches for when it hands a session to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Format version of the ticket.
    pub v: u8,
    /// Unix seconds after which the ticket is void (JWT `exp`).
    pub exp: u64,
    /// The session's id; also what makes the ticket single use.
    pub session: SessionId,
    pub user: UserId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// When the user's token expires.
    pub token_expires_at: Millis,
    /// The client's address as the broker saw it, for logs and bans.
    pub address: String,
    /// The lobby to join at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lobby: Option<LobbyId>,
    /// The only node that may accept this ticket.
    pub node: NodeName,
}

/// What a broker says of a session that it opens on a trunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boarding {
    /// The signed ticket.
    pub ticket: String,
    /// What the player and the node speak; none: JSON, and none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<String>,
    /// The place in a trace (W3C Trace Context), if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Why a ticket was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("the ticket has expired")]
    Expired,
    #[error("the ticket is not signed by this cluster, or damaged")]
    Invalid,
    #[error("the ticket is of format {0}, which this release does not read")]
    Version(u8),
}

/// The cluster's keys: the first signs, all of them verify, so that a key can be changed without a gap.
#[derive(Clone)]
pub struct ClusterKeys {
    sign: EncodingKey,
    verify: Vec<DecodingKey>,
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKeys({} hidden)", self.verify.len())
    }
}

impl ClusterKeys {
    /// Takes one or two keys of 32 bytes.
    ///
    /// # Panics
    /// When no key is given; the configuration has checked that.
    #[must_use]
    pub fn new(keys: &[[u8; 32]]) -> Self {
        let first = keys.first().expect("the configuration gives at least one cluster key");
        ClusterKeys {
            sign: EncodingKey::from_secret(first),
            verify: keys.iter().map(|key| DecodingKey::from_secret(key)).collect(),
        }
    }

    /// A key for one process and its life.
    #[must_use]
    pub fn random() -> Self {
        ClusterKeys::new(&[rand::random()])
    }

    /// Signs any claims that carry `exp`.
    pub fn sign<T: Serialize>(&self, claims: &T) -> String {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &self.sign)
            .expect("HS256 signs any claims that serialize")
    }

    /// Checks signature and expiry of what `sign` made.
    ///
    /// # Errors
    /// `Expired`, or `Invalid` for anything else.
    pub fn verify<T: serde::de::DeserializeOwned + Clone>(&self, token: &str) -> Result<T, TicketError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 5;
        validation.validate_aud = false;
        let mut outcome = TicketError::Invalid;
        for key in &self.verify {
            match jsonwebtoken::decode::<T>(token, key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) if *error.kind() == jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                    outcome = TicketError::Expired;
                }
                Err(_) => {}
            }
        }
        Err(outcome)
    }

    /// Signs a ticket.
    #[must_use]
    pub fn mint(&self, ticket: &Ticket) -> String {
        self.sign(ticket)
    }

    /// Checks a ticket's signature, expiry and version. That it is used once, and on its own node, is for the
    /// node to check.
    ///
    /// # Errors
    /// See [`TicketError`].
    pub fn open(&self, token: &str) -> Result<Ticket, TicketError> {
        let ticket: Ticket = self.verify(token)?;
        if !(TICKET_VERSION - 1..=TICKET_VERSION).contains(&ticket.v) {
            return Err(TicketError::Version(ticket.v));
        }
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(exp: u64) -> Ticket {
        Ticket {
            v: TICKET_VERSION,
            exp,
            session: SessionId::generate(),
            user: UserId::new("ann").unwrap(),
            name: Some("Ann".into()),
            roles: vec![Role::Admin],
            token_expires_at: Millis(1),
            address: "127.0.0.1".into(),
            lobby: Some(LobbyId::new("lounge").unwrap()),
            node: NodeName::new("node-1").unwrap(),
        }
    }

    #[test]
    fn tickets_open_only_with_a_key_of_the_cluster_and_in_time() {
        let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        let (old, new) = ([1; 32], [2; 32]);
        let good = ticket(4_000_000_000);
        let by_old = ClusterKeys::new(&[old]).mint(&good);
        assert_eq!(ClusterKeys::new(&[new, old]).open(&by_old), Ok(good.clone()));
        assert_eq!(ClusterKeys::new(&[new]).open(&by_old), Err(TicketError::Invalid));
        assert_eq!(ClusterKeys::new(&[old]).open("a.b.c"), Err(TicketError::Invalid));
        let stale = ClusterKeys::new(&[old]).mint(&ticket(1_000));
        assert_eq!(ClusterKeys::new(&[old]).open(&stale), Err(TicketError::Expired));
        let before = Ticket { v: TICKET_VERSION - 1, ..good.clone() };
        assert_eq!(ClusterKeys::new(&[old]).open(&ClusterKeys::new(&[old]).mint(&before)), Ok(before));
        let strange = ClusterKeys::new(&[old]).mint(&Ticket { v: 9, ..good });
        assert_eq!(ClusterKeys::new(&[old]).open(&strange), Err(TicketError::Version(9)));
    }
}
