//! Signs users' tokens with the HS256 secret: guests' tokens and those of `mlms token`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mlms_protocol::{Role, UserId};
use secrecy::ExposeSecret;
use serde::Serialize;

use super::clean_name;
use crate::config::{JwtSettings, TokenAlgorithm};

/// Signs tokens that this deployment accepts. Cheap to clone.
#[derive(Clone)]
pub struct Minter {
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
}

/// A signed token.
#[derive(Debug, Clone)]
pub struct Minted {
    pub token: String,
    pub user: UserId,
    pub name: Option<String>,
    /// Unix seconds.
    pub expires_at: u64,
}

#[derive(Serialize)]
struct NewClaims<'a> {
    sub: &'a str,
    exp: u64,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Role]>::is_empty")]
    roles: &'a [Role],
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Minter {
    /// A minter where the settings have a secret and accept HS256.
    pub fn new(settings: &JwtSettings) -> Option<Minter> {
        let accepted = settings.algorithms.is_empty() || settings.algorithms.contains(&TokenAlgorithm::Hs256);
        let secret = settings.hs256_secret.as_ref().filter(|_| accepted)?;
        Some(Minter {
            key: EncodingKey::from_secret(secret.expose_secret().as_bytes()),
            issuer: settings.issuer.clone(),
            audience: settings.audience.first().cloned(),
        })
    }

    /// Signs a token that is valid from now for `ttl`.
    pub fn mint(&self, user: &UserId, name: Option<&str>, roles: &[Role], ttl: Duration) -> Minted {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let expires_at = now.saturating_add(ttl.as_secs()).min(super::EXPIRY_MAX);
        let name = name.map(clean_name).filter(|name| !name.is_empty());
        let claims = NewClaims {
            sub: user.as_str(),
            exp: expires_at,
            iat: now,
            name: name.as_deref(),
            roles,
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .expect("HS256 signs any claims that serialize");
        Minted { token, user: user.clone(), name, expires_at }
    }

    /// Signs a token for a new guest: a made-up user id, the wanted name, no roles.
    pub fn mint_guest(&self, name: &str, ttl: Duration) -> Minted {
        let id = format!("guest-{:024x}", rand::random::<u128>() >> 32);
        let user = UserId::new(&id).expect("a short text of letters and digits is a user id");
        self.mint(&user, Some(name), &[], ttl)
    }
}
