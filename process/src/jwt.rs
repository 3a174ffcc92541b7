//! Users' tokens: verified by keys from a secret, a PEM file or a JSON Web Key Set, and signed where a secret is
//! given. A key is bound to its algorithm by the configuration; what a token's header says only chooses among them.
//! Verifying is synchronous and cheap; only a token of an unknown key may wait for the key set once.

mod fetch;
mod keys;
mod minter;
mod refresh;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlms_protocol::{ErrorCode, Role, UserId};
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::sync::{Notify, watch};

pub use self::keys::KeyError;
use self::keys::{Key, Rules};
pub use self::minter::{Minted, Minter};
pub use self::refresh::KeyRefresh;
use crate::config::{JwtSettings, TokenAlgorithm};

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Longest name taken from a token, in characters; the rest is cut off.
const NAME_CHARS_MAX: usize = 64;

/// The last second of the year 9999: later expiries are cut, so that times in milliseconds never overflow.
const EXPIRY_MAX: u64 = 253_402_300_799;

/// Clock difference that is forgiven in `nbf`, in seconds. `exp` counts to the second, at connect as in a session.
const LEEWAY_SECONDS: u64 = 5;

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub sub: UserId,
    /// Unix seconds.
    pub exp: u64,
    /// At most 64 characters, without control characters.
    pub name: Option<String>,
    /// The known ones; others are ignored.
    pub roles: Vec<Role>,
    pub iss: Option<String>,
    pub aud: Vec<String>,
}

impl Claims {
    pub fn has_role(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token has expired")]
    Expired,
    /// Forged, damaged, for somebody else, or not yet valid: trying again is of no use.
    #[error("the token is not valid: {0}")]
    Bad(&'static str),
    /// The key set is out of reach: trying again later may succeed.
    #[error("the keys of the token's issuer cannot be fetched at the moment")]
    KeysUnavailable,
}

impl TokenError {
    /// The code that a player's client sees.
    pub fn code(self) -> ErrorCode {
        match self {
            TokenError::Expired => ErrorCode::TokenExpired,
            TokenError::Bad(_) => ErrorCode::Unauthorized,
            TokenError::KeysUnavailable => ErrorCode::Overloaded,
        }
    }
}

/// Makes AWS-LC the one source of cryptography of this process. First thing in `main` and in tests; may be repeated.
pub fn install_crypto_provider() {
    // Both fail only when a provider is installed already, which is then the same one.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Reads a PEM file and tells the algorithm of its public key.
pub(crate) fn read_public_key(path: &Path) -> Result<TokenAlgorithm, String> {
    keys::from_pem_file(path).map(|(algorithm, _)| algorithm)
}

/// Reads a key set file and tells how many usable keys it has.
pub(crate) fn read_key_set(path: &Path) -> Result<usize, String> {
    keys::count_in_set(&fetch::read_file(path)?)
}

/// Verifies users' tokens. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
}

struct Shared {
    rules: Rules,
    fixed: Vec<Key>,
    remote: Option<Remote>,
}

/// The keys of a key set, which `KeyRefresh` keeps fresh.
struct Remote {
    set: RwLock<Arc<KeySet>>,
    /// Asks `KeyRefresh` for a fetch.
    wanted: Notify,
    /// Counts the fetches that ended, well or not, and the requests that were refused.
    rounds: watch::Receiver<u64>,
    /// Longest wait for a round.
    patience: Duration,
}

#[derive(Default)]
struct KeySet {
    keys: Arc<[Key]>,
    /// Whether the last fetch succeeded.
    fresh: bool,
}

impl Remote {
    fn current(&self) -> Arc<KeySet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last fetch failed; the keys stay.
    fn mark_stale(&self) {
        self.replace(KeySet { keys: self.current().keys.clone(), fresh: false });
    }

    fn replace(&self, set: KeySet) {
        *self.set.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }
}

enum Refusal {
    /// No key is known that could have signed the token.
    UnknownKey {
        fresh: bool,
    },
    Final(TokenError),
}

impl Verifier {
    /// Takes the keys of the settings. The `KeyRefresh` fetches the key set, if there is one, and must be run.
    ///
    /// # Errors
    /// When a file cannot be read as what it should be, or no key is given at all.
    pub fn new(settings: &JwtSettings) -> Result<(Verifier, KeyRefresh), KeyError> {
        Verifier::with_pace(settings, refresh::Pace::default())
    }

    fn with_pace(settings: &JwtSettings, pace: refresh::Pace) -> Result<(Verifier, KeyRefresh), KeyError> {
        if !settings.has_key() {
            return Err(KeyError("no key is set by which users' tokens could be verified".to_owned()));
        }
        let rules = Rules::new(settings);
        let mut fixed = Vec::new();
        if let Some(secret) = &settings.hs256_secret {
            fixed.extend(rules.secret_key(secret.expose_secret().as_bytes()));
        }
        if let Some(path) = &settings.public_key_file {
            let (algorithm, key) =
                keys::from_pem_file(path).map_err(|why| KeyError(format!("{}: {why}", path.display())))?;
            fixed.extend(rules.key(None, algorithm, key));
        }
        let (rounds_sender, rounds) = watch::channel(0);
        let remote = settings.jwks.as_ref().map(|_| Remote {
            set: RwLock::default(),
            wanted: Notify::new(),
            rounds,
            patience: pace.fetch_timeout + Duration::from_secs(1),
        });
        let shared = Arc::new(Shared { rules, fixed, remote });
        let source = match &settings.jwks {
            Some(source) => Some(fetch::Source::new(source).map_err(KeyError)?),
            None => None,
        };
        let refresh = KeyRefresh::new(shared.clone(), source, rounds_sender, pace);
        Ok((Verifier { shared }, refresh))
    }

    /// Verifies by the keys at hand; never waits.
    ///
    /// # Errors
    /// See `TokenError`; a token of an unknown key is `Bad`, or `KeysUnavailable` while the last fetch failed.
    pub fn verify_now(&self, token: &str) -> Result<Claims, TokenError> {
        self.attempt(token).map_err(Refusal::into_error)
    }

    /// Verifies; a token of an unknown key waits for one fetch of the key set, shared with all who wait.
    /// Cancel safe.
    ///
    /// # Errors
    /// See `TokenError`.
    pub async fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        let (refusal, remote) = match (self.attempt(token), &self.shared.remote) {
            (Ok(claims), _) => return Ok(claims),
            (Err(refusal @ Refusal::UnknownKey { .. }), Some(remote)) => (refusal, remote),
            (Err(refusal), _) => return Err(refusal.into_error()),
        };
        let mut rounds = remote.rounds.clone();
        rounds.mark_unchanged();
        // A fetch may have ended between the attempt and the subscription.
        match self.attempt(token) {
            Err(Refusal::UnknownKey { .. }) => {}
            outcome => return outcome.map_err(Refusal::into_error),
        }
        remote.wanted.notify_one();
        match tokio::time::timeout(remote.patience, rounds.changed()).await {
            Ok(Ok(())) => self.verify_now(token),
            // Nobody fetches any more (the process stops), or not in time.
            Ok(Err(_)) => Err(refusal.into_error()),
            Err(_) => Err(TokenError::KeysUnavailable),
        }
    }

    fn attempt(&self, token: &str) -> Result<Claims, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Final(TokenError::Bad("it is too long")));
        }
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| Refusal::Final(TokenError::Bad("its header cannot be read")))?;
        // RFC 7515, section 4.1.11: whoever does not understand all that it names must refuse the token; we know none.
        if header.crit.is_some() {
            return Err(Refusal::Final(TokenError::Bad("its header has a crit that is not understood")));
        }
        let remote = self.shared.remote.as_ref().map(Remote::current);
        let fresh = remote.as_ref().is_none_or(|set| set.fresh);
        let mut refusal = TokenError::Bad("no key fits its algorithm");
        let all_keys = self.shared.fixed.iter().chain(remote.iter().flat_map(|set| set.keys.iter()));
        for key in all_keys.filter(|key| key.fits(&header)).take(keys::CANDIDATES_MAX) {
            match key.verify(token) {
                Ok(claims) => return claims.checked().map_err(Refusal::Final),
                Err(wrong @ keys::WRONG_SIGNATURE) => refusal = wrong,
                // The signature was found good, or nothing of the token can be read.
                Err(other) => return Err(Refusal::Final(other)),
            }
        }
        // Without a key id only the signature tells that a key is missing: the issuer may have changed its one key.
        let remote_may_know = match (&remote, &header.kid) {
            (None, _) => false,
            (Some(set), Some(named)) => !set.keys.iter().any(|key| key.is_named(named)),
            (Some(_), None) => true,
        };
        if remote_may_know && self.shared.rules.accepts_remote(header.alg) {
            return Err(Refusal::UnknownKey { fresh });
        }
        Err(Refusal::Final(refusal))
    }
}

impl Refusal {
    fn into_error(self) -> TokenError {
        match self {
            Refusal::Final(error) => error,
            Refusal::UnknownKey { fresh: true } => {
                TokenError::Bad("no key is known that could have signed it")
            }
            Refusal::UnknownKey { fresh: false } => TokenError::KeysUnavailable,
        }
    }
}

/// Claims as they stand in a token: signature and times are verified, the rest is not.
#[derive(Deserialize)]
struct RawClaims {
    sub: String,
    exp: f64,
    #[serde(default)]
    name: Option<serde_json::Value>,
    #[serde(default)]
    roles: Option<serde_json::Value>,
    #[serde(default)]
    iss: Option<serde_json::Value>,
    #[serde(default)]
    aud: Option<serde_json::Value>,
}

impl RawClaims {
    fn checked(self) -> Result<Claims, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        if self.exp <= now {
            return Err(TokenError::Expired);
        }
        let sub = UserId::new(&self.sub)
            .map_err(|_| TokenError::Bad("its sub is empty, too long or has control characters"))?;
        let name = self.name.as_ref().and_then(serde_json::Value::as_str).map(clean_name);
        let roles = texts(self.roles);
        Ok(Claims {
            sub,
            // Saturates: a negative or absurd number never gets here as valid, and never overflows later.
            exp: (self.exp as u64).min(EXPIRY_MAX),
            name: name.filter(|name| !name.is_empty()),
            roles: Role::ALL
                .iter()
                .copied()
                .filter(|role| roles.iter().any(|text| text == role.as_str()))
                .collect(),
            iss: self.iss.as_ref().and_then(serde_json::Value::as_str).map(str::to_owned),
            aud: texts(self.aud),
        })
    }
}

fn clean_name(name: &str) -> String {
    let visible: String = name.trim().chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
    visible.trim_end().to_owned()
}

/// A text or a list of texts; whatever else stands there is ignored.
fn texts(value: Option<serde_json::Value>) -> Vec<String> {
    match value {
        Some(serde_json::Value::String(text)) => vec![text],
        Some(serde_json::Value::Array(items)) => {
            items.into_iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}
