//! Tokens of every algorithm and every way to forge one.

mod key_sets;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use axum::http::{Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http_body_util::Full;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::refresh::Pace;
use super::*;
use crate::config::{JwksSource, ProcessRole, Settings};
use crate::health::{Health, State};
use crate::http::{self, HttpOptions, ListenerMetrics};
use crate::testing::{Folder, closed_port};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// A key pair of a user's identity provider.
struct Pair {
    name: &'static str,
    algorithm: Algorithm,
    signing: EncodingKey,
    public_pem: String,
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

fn public_pem(key: &impl AsDer<PublicKeyX509Der<'static>>) -> String {
    pem(key.as_der().unwrap().as_ref())
}

fn rsa() -> Pair {
    let pair = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    // The library signs with the key inside of PKCS#8, which the PEM reader unwraps.
    let pkcs8 = AsDer::<Pkcs8V1Der<'static>>::as_der(&pair).unwrap();
    let private = pem(pkcs8.as_ref()).replace("PUBLIC", "PRIVATE");
    let signing = EncodingKey::from_rsa_pem(private.as_bytes()).unwrap();
    Pair { name: "RS256", algorithm: Algorithm::RS256, signing, public_pem: public_pem(pair.public_key()) }
}

fn ec() -> Pair {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let signing = EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref());
    Pair { name: "ES256", algorithm: Algorithm::ES256, signing, public_pem: public_pem(pair.public_key()) }
}

fn ed() -> Pair {
    let pair = Ed25519KeyPair::generate().unwrap();
    let signing = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
    Pair { name: "EdDSA", algorithm: Algorithm::EdDSA, signing, public_pem: public_pem(pair.public_key()) }
}

impl Pair {
    fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.signing).unwrap()
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.signing, self.algorithm).unwrap();
        jwk.common.key_id = Some(kid.to_owned());
        serde_json::to_value(jwk).unwrap()
    }
}

fn settings() -> JwtSettings {
    install_crypto_provider();
    Settings::defaults(ProcessRole::Broker).jwt
}

fn with_secret() -> JwtSettings {
    JwtSettings { hs256_secret: Some(SECRET.into()), ..settings() }
}

fn verifier(settings: &JwtSettings) -> Verifier {
    Verifier::new(settings).unwrap().0
}

fn soon() -> u64 {
    get_current_timestamp() + 600
}

fn good() -> Value {
    json!({ "sub": "ann", "exp": soon() })
}

fn signed(claims: &Value) -> String {
    hs256(SECRET, &Header::new(Algorithm::HS256), claims)
}

fn hs256(secret: &str, header: &Header, claims: &Value) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn is_bad(outcome: Result<Claims, TokenError>) -> bool {
    matches!(outcome, Err(TokenError::Bad(_)))
}

#[test]
fn each_algorithm_verifies_by_its_own_key_and_by_no_other() {
    let folder = Folder::new();
    let pairs = [rsa(), ec(), ed()];
    for pair in &pairs {
        let path = folder.file(pair.name, &pair.public_pem);
        let settings = JwtSettings { public_key_file: Some(path), ..settings() };
        let verifier = verifier(&settings);
        for other in &pairs {
            let outcome = verifier.verify_now(&other.token(None, &good()));
            if other.name == pair.name {
                assert_eq!(outcome.unwrap().sub.as_str(), "ann", "{}", pair.name);
            } else {
                assert!(is_bad(outcome), "{} by the key of {}", other.name, pair.name);
            }
        }
        // The classic: the public key, which everybody has, used as an HMAC secret.
        let forged = hs256(&pair.public_pem, &Header::new(Algorithm::HS256), &good());
        assert!(is_bad(verifier.verify_now(&forged)), "{}", pair.name);
    }
    assert!(verifier(&with_secret()).verify_now(&signed(&good())).is_ok());
}

#[test]
fn several_kinds_of_keys_live_side_by_side_unless_the_list_forbids_it() {
    let (folder, pair) = (Folder::new(), ed());
    let path = folder.file("key.pem", &pair.public_pem);
    let both = JwtSettings { public_key_file: Some(path), ..with_secret() };
    for token in [signed(&good()), pair.token(None, &good()), pair.token(Some("any"), &good())] {
        assert!(verifier(&both).verify_now(&token).is_ok());
    }
    let one = JwtSettings { algorithms: vec![TokenAlgorithm::EdDsa], ..both };
    assert!(is_bad(verifier(&one).verify_now(&signed(&good()))));
    assert!(verifier(&one).verify_now(&pair.token(None, &good())).is_ok());
    assert!(Minter::new(&one).is_none(), "nobody would accept its tokens");
}

#[test]
fn forged_and_damaged_tokens_are_bad() {
    let verifier = verifier(&with_secret());
    let token = signed(&good());
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (_, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let other_payload = part(json!({ "sub": "bob", "exp": soon() }));
    let (head, _) = token.split_once('.').unwrap();
    let critical = |names: &[&str]| {
        let crit = Some(names.iter().map(|&name| name.to_owned()).collect());
        hs256(SECRET, &Header { crit, ..Header::new(Algorithm::HS256) }, &good())
    };
    for (name, forged) in [
        ("an extension that must be understood", critical(&["https://example.com/unknown"])),
        ("an extension that must be understood and has no name", critical(&[])),
        ("no algorithm", format!("{}.{payload}.", part(json!({ "alg": "none" })))),
        ("no algorithm, with signature", format!("{}.{payload}.{signature}", part(json!({ "alg": "none" })))),
        ("another algorithm", format!("{}.{payload}.{signature}", part(json!({ "alg": "HS512" })))),
        ("another payload", format!("{head}.{other_payload}.{signature}")),
        ("another secret", hs256("another secret", &Header::new(Algorithm::HS256), &good())),
        ("a longer hash", hs256(SECRET, &Header::new(Algorithm::HS384), &good())),
        ("cut", token[..token.len() - 4].to_owned()),
        ("no signature", format!("{head}.{payload}.")),
        ("two parts", format!("{head}.{payload}")),
        ("four parts", format!("{token}.x")),
        ("empty", String::new()),
        ("no base64", "ä.ö.ü".to_owned()),
        ("too long", signed(&json!({ "sub": "ann", "exp": soon(), "x": "y".repeat(TOKEN_BYTES_MAX) }))),
    ] {
        assert!(is_bad(verifier.verify_now(&forged)), "{name}");
    }
}

#[test]
fn claims_are_required_checked_and_bounded() {
    let limited = JwtSettings {
        issuer: Some("https://id.example.com/".to_owned()),
        audience: vec!["mlms".to_owned(), "game".to_owned()],
        ..with_secret()
    };
    let now = get_current_timestamp();
    let check = |settings: &JwtSettings, claims: Value, expected: Result<(), TokenError>| {
        let outcome = verifier(settings).verify_now(&signed(&claims)).map(|_| ());
        let same = match (&outcome, &expected) {
            (Err(TokenError::Bad(_)), Err(TokenError::Bad(_))) => true,
            (outcome, expected) => outcome == expected,
        };
        assert!(same, "{claims}: {outcome:?}");
    };
    let bad = || Err(TokenError::Bad(""));
    let plain = with_secret();
    check(&plain, json!({ "sub": "ann", "exp": now - 60 }), Err(TokenError::Expired));
    // No leeway: what passes at connect would end the session at once.
    check(&plain, json!({ "sub": "ann", "exp": now - 1 }), Err(TokenError::Expired));
    check(&plain, json!({ "sub": "ann", "exp": now as f64 + 60.5 }), Ok(()));
    check(&plain, json!({ "sub": "ann", "exp": "tomorrow" }), bad());
    check(&plain, json!({ "sub": "ann" }), bad());
    check(&plain, json!({ "exp": now + 60 }), bad());
    check(&plain, json!({ "sub": 7, "exp": now + 60 }), bad());
    check(&plain, json!({ "sub": "", "exp": now + 60 }), bad());
    check(&plain, json!({ "sub": "a\u{0}b", "exp": now + 60 }), bad());
    check(&plain, json!({ "sub": "é".repeat(64), "exp": now + 60 }), Ok(()));
    check(&plain, json!({ "sub": "é".repeat(65), "exp": now + 60 }), bad());
    check(&plain, json!({ "sub": "ann", "exp": now + 60, "nbf": now + 60 }), bad());
    check(&plain, json!({ "sub": "ann", "exp": now + 60, "nbf": now + 2 }), Ok(()));
    check(&plain, json!({ "sub": "ann", "exp": now + 60, "iss": "x", "aud": "y" }), Ok(()));
    check(&limited, json!({ "sub": "ann", "exp": now + 60 }), bad());
    let from = |issuer: &str, audience: Value| json!({ "sub": "ann", "exp": now + 60, "iss": issuer, "aud": audience });
    check(&limited, from("https://id.example.com/", json!("mlms")), Ok(()));
    check(&limited, from("https://id.example.com/", json!(["other", "game"])), Ok(()));
    check(&limited, from("https://id.example.com/", json!("other")), bad());
    check(&limited, from("https://evil.example/", json!("mlms")), bad());
}

#[test]
fn what_a_token_says_arrives_cleaned() {
    let claims = json!({
        "sub": "ann", "exp": 1e18, "name": format!("  A\u{7}nn {}", "x".repeat(100)), "roles": ["server", "god", 7, "admin"],
        "iss": "me", "aud": ["a", "b"],
    });
    let found = verifier(&with_secret()).verify_now(&signed(&claims)).unwrap();
    assert_eq!(found.name.as_deref(), Some(format!("Ann {}", "x".repeat(60)).as_str()));
    assert_eq!(found.roles, [Role::Admin, Role::Server]);
    assert_eq!((found.iss.as_deref(), found.aud), (Some("me"), vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(found.exp, EXPIRY_MAX);
    for odd in [json!({ "name": 7, "roles": "admin" }), json!({ "name": " ", "roles": { "admin": true } })] {
        let mut claims = good();
        claims.as_object_mut().unwrap().extend(odd.as_object().unwrap().clone());
        assert_eq!(verifier(&with_secret()).verify_now(&signed(&claims)).unwrap().name, None);
    }
}

#[test]
fn minted_tokens_verify() {
    let settings = JwtSettings {
        issuer: Some("mlms".to_owned()),
        audience: vec!["players".to_owned()],
        ..with_secret()
    };
    let (minter, verifier) = (Minter::new(&settings).unwrap(), verifier(&settings));
    let user = UserId::new("ann").unwrap();
    let minted = minter.mint(&user, Some("Ann"), &[Role::Moderator], Duration::from_secs(3_600));
    let claims = verifier.verify_now(&minted.token).unwrap();
    assert_eq!((&claims.sub, claims.name.as_deref(), claims.exp), (&user, Some("Ann"), minted.expires_at));
    assert!(claims.has_role(Role::Moderator) && !claims.has_role(Role::Admin));

    let (one, two) = (minter.mint_guest("Bob", Duration::ZERO), minter.mint_guest("Bob", Duration::MAX));
    assert_ne!(one.user, two.user, "guests of one name are two users");
    assert!(two.user.as_str().starts_with("guest-"));
    assert!(verifier.verify_now(&two.token).unwrap().roles.is_empty());
    assert!(Minter::new(&self::settings()).is_none(), "nothing to sign with");
}

#[test]
fn unusable_key_files_are_told() {
    let (folder, pair) = (Folder::new(), ec());
    let check = |content: &str, expected: &str| {
        let error = read_public_key(&folder.file("key.pem", content)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    assert_eq!(read_public_key(&folder.file("key.pem", &pair.public_pem)), Ok(TokenAlgorithm::Es256));
    check("nonsense", "holds no RSA, P-256 or Ed25519 public key");
    check(&pair.public_pem.replace("PUBLIC", "PRIVATE"), "private key");
    check(&"x".repeat(300_000), "larger than");
    assert!(read_key_set(&folder.file("set", "{}")).is_err());
    let mixed = json!({ "keys": [pair.jwk("a"), { "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }, { "kty": "new" }, 7] });
    assert_eq!(
        read_key_set(&folder.file("set", mixed.to_string())),
        Ok(1),
        "what is unknown or secret is skipped"
    );
    assert!(Verifier::new(&settings()).is_err(), "no key at all");
}
