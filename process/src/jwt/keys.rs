//! Keys and what a token must satisfy under them. Each key carries the one algorithm it may be used with.

use std::path::Path;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};

use super::{LEEWAY_SECONDS, RawClaims, TokenError, fetch};
use crate::config::{JwtSettings, TokenAlgorithm};

/// Keys tried for one token: without a key id several may fit.
pub(super) const CANDIDATES_MAX: usize = 4;

/// Keys taken from one key set; the rest is ignored.
const SET_KEYS_MAX: usize = 64;

/// The token was not signed with the key, or the key is of no use; another one may fit.
pub(super) const WRONG_SIGNATURE: TokenError = TokenError::Bad("its signature is wrong");

/// Length of an uncompressed point on P-256.
const P256_POINT_BYTES: usize = 65;

/// A key cannot be had: unreadable, of an unknown kind, or not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(pub(super) String);

/// What every token must satisfy.
pub(super) struct Rules {
    accepted: Vec<TokenAlgorithm>,
    issuer: Option<String>,
    audience: Vec<String>,
}

/// A key with its algorithm and the rules made ready.
pub(super) struct Key {
    id: Option<String>,
    key: DecodingKey,
    algorithm: Algorithm,
    validation: Validation,
}

fn library_name(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

impl Rules {
    pub(super) fn new(settings: &JwtSettings) -> Rules {
        let accepted = match settings.algorithms.as_slice() {
            [] => TokenAlgorithm::ALL.to_vec(),
            listed => listed.to_vec(),
        };
        Rules { accepted, issuer: settings.issuer.clone(), audience: settings.audience.clone() }
    }

    /// Whether a key set could have a key for such a token. HMAC keys are never taken from a key set.
    pub(super) fn accepts_remote(&self, algorithm: Algorithm) -> bool {
        algorithm != Algorithm::HS256 && self.accepted.iter().any(|one| library_name(*one) == algorithm)
    }

    pub(super) fn secret_key(&self, secret: &[u8]) -> Option<Key> {
        self.key(None, TokenAlgorithm::Hs256, DecodingKey::from_secret(secret))
    }

    /// A ready key, unless its algorithm is not accepted.
    pub(super) fn key(&self, id: Option<String>, algorithm: TokenAlgorithm, key: DecodingKey) -> Option<Key> {
        if !self.accepted.contains(&algorithm) {
            return None;
        }
        let algorithm = library_name(algorithm);
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.validate_aud = !self.audience.is_empty();
        if validation.validate_aud {
            validation.set_audience(&self.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        Some(Key { id, key, algorithm, validation })
    }

    /// The usable keys of a key set; unknown kinds are skipped.
    pub(super) fn keys_of_set(&self, text: &[u8]) -> Result<Vec<Key>, String> {
        let keys = keys_in_set(text)?;
        Ok(keys.into_iter().filter_map(|(id, algorithm, key)| self.key(id, algorithm, key)).collect())
    }
}

impl Key {
    /// Whether the token may have been signed with this key.
    pub(super) fn fits(&self, header: &Header) -> bool {
        let id_fits = match (&self.id, &header.kid) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        self.algorithm == header.alg && id_fits
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.id.as_deref() == Some(name)
    }

    pub(super) fn verify(&self, token: &str) -> Result<RawClaims, TokenError> {
        match jsonwebtoken::decode::<RawClaims>(token, &self.key, &self.validation) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::ExpiredSignature => TokenError::Expired,
                ErrorKind::InvalidSignature
                | ErrorKind::InvalidKeyFormat
                | ErrorKind::InvalidRsaKey(_)
                | ErrorKind::InvalidEcdsaKey
                | ErrorKind::InvalidEddsaKey
                | ErrorKind::Provider(_) => WRONG_SIGNATURE,
                ErrorKind::InvalidIssuer => TokenError::Bad("it is from another issuer"),
                ErrorKind::InvalidAudience => TokenError::Bad("it is for another audience"),
                ErrorKind::ImmatureSignature => TokenError::Bad("it is not valid yet"),
                ErrorKind::MissingRequiredClaim(_) => TokenError::Bad("a required claim is missing"),
                _ => TokenError::Bad("it cannot be read"),
            }),
        }
    }
}

/// Reads a PEM file with one public key and tells its algorithm.
pub(super) fn from_pem_file(path: &Path) -> Result<(TokenAlgorithm, DecodingKey), String> {
    from_pem(&fetch::read_file(path)?)
}

fn from_pem(pem: &[u8]) -> Result<(TokenAlgorithm, DecodingKey), String> {
    if String::from_utf8_lossy(pem).contains("PRIVATE KEY") {
        return Err("holds a private key, which has no business here".to_owned());
    }
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        return Ok((TokenAlgorithm::Rs256, key));
    }
    if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        let is_p256 = key.try_get_as_bytes().is_ok_and(|point| point.len() == P256_POINT_BYTES);
        let not_p256 = || "holds a key on another curve than P-256".to_owned();
        return is_p256.then_some((TokenAlgorithm::Es256, key)).ok_or_else(not_p256);
    }
    match DecodingKey::from_ed_pem(pem) {
        Ok(key) => Ok((TokenAlgorithm::EdDsa, key)),
        Err(_) => Err("holds no RSA, P-256 or Ed25519 public key in PEM form".to_owned()),
    }
}

pub(super) fn count_in_set(text: &[u8]) -> Result<usize, String> {
    keys_in_set(text).map(|keys| keys.len())
}

type NamedKey = (Option<String>, TokenAlgorithm, DecodingKey);

fn keys_in_set(text: &[u8]) -> Result<Vec<NamedKey>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set =
        serde_json::from_slice(text).map_err(|error| format!("is no JSON Web Key Set: {error}"))?;
    let usable: Vec<_> = set.keys.into_iter().take(SET_KEYS_MAX).filter_map(from_jwk).collect();
    if usable.is_empty() {
        return Err("holds no RSA, P-256 or Ed25519 key for signatures".to_owned());
    }
    Ok(usable)
}

/// A signature key of a kind we know; everything else in a set is for others.
fn from_jwk(value: serde_json::Value) -> Option<NamedKey> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let for_signatures = !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
    let (algorithm, its_name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (TokenAlgorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (TokenAlgorithm::Es256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (TokenAlgorithm::EdDsa, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let named_so = jwk.common.key_algorithm.is_none_or(|name| name == its_name);
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    (for_signatures && named_so).then_some((jwk.common.key_id, algorithm, key))
}
