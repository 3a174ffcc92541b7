//! Tokens of every algorithm and every way to forge one; the key set against a small server on loopback.

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
use crate::testing::Folder;

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

/// An identity provider whose key set is served over HTTP, as slowly and as badly as a test wants.
struct Provider {
    address: SocketAddr,
    page: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
    /// One permit lets one answer out.
    answers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Provider {
    async fn start(keys: &[Value]) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Provider {
            address: listener.local_addr().unwrap(),
            page: Arc::new(Mutex::new((StatusCode::OK, json!({ "keys": keys }).to_string()))),
            asked: Arc::default(),
            answers: Arc::new(Semaphore::new(1_000)),
            stop: CancellationToken::new(),
        };
        let (page, asked, answers) =
            (provider.page.clone(), provider.asked.clone(), provider.answers.clone());
        let service = move |_, _| {
            asked.fetch_add(1, Ordering::SeqCst);
            let (page, answers) = (page.clone(), answers.clone());
            async move {
                answers.acquire().await.unwrap().forget();
                let (status, text) = page.lock().unwrap().clone();
                Response::builder().status(status).body(Full::new(bytes::Bytes::from(text))).unwrap()
            }
        };
        let metrics = ListenerMetrics::new(&Registry::new(), "provider");
        tokio::spawn(http::serve(listener, HttpOptions::default(), metrics, service, provider.stop.clone()));
        provider
    }

    fn serves(&self, keys: &[Value]) {
        *self.page.lock().unwrap() = (StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A verifier with its refresh running.
struct Running {
    verifier: Verifier,
    health: Health,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Only an unknown key causes a fetch, and every one does.
fn eager() -> Pace {
    let long = Duration::from_secs(3_600);
    Pace {
        refresh: long,
        retry: long,
        unknown_key_gap: Duration::ZERO,
        fetch_timeout: Duration::from_secs(60),
    }
}

impl Running {
    fn start(source: JwksSource, pace: Pace) -> Running {
        let settings = JwtSettings { jwks: Some(source), ..settings() };
        let (verifier, refresh) = Verifier::with_pace(&settings, pace).unwrap();
        let (health, stop) = (Health::new(), CancellationToken::new());
        let task = tokio::spawn(refresh.run(health.component("keys"), stop.clone()));
        Running { verifier, health, stop, task }
    }

    fn of(provider: &Provider, pace: Pace) -> Running {
        Running::start(JwksSource::Url(format!("http://{}/jwks.json?x=1", provider.address)), pace)
    }

    fn state(&self) -> State {
        self.health.component("keys").state()
    }
}

#[tokio::test]
async fn keys_of_a_set_verify_and_a_new_key_is_fetched_when_it_is_named() {
    let pairs = [rsa(), ec(), ed()];
    let provider = Provider::start(&[pairs[0].jwk("one"), pairs[1].jwk("two")]).await;
    let running = Running::of(&provider, eager());
    for (pair, kid) in [(&pairs[0], "one"), (&pairs[1], "two")] {
        assert!(running.verifier.verify(&pair.token(Some(kid), &good())).await.is_ok(), "{kid}");
    }
    // How often the first two asked depends on who was first, they or the start; from here on nothing is unknown.
    let before = provider.asked();
    for _ in 0..10 {
        running.verifier.verify(&pairs[1].token(Some("two"), &good())).await.unwrap();
        running.verifier.verify(&pairs[1].token(None, &good())).await.unwrap();
        assert!(
            is_bad(running.verifier.verify(&pairs[0].token(Some("two"), &good())).await),
            "the key of another kind"
        );
    }
    assert_eq!(provider.asked(), before);

    provider.serves(&[pairs[2].jwk("three")]);
    assert!(running.verifier.verify(&pairs[2].token(Some("three"), &good())).await.is_ok(), "rotated");
    assert!(is_bad(running.verifier.verify(&pairs[0].token(Some("one"), &good())).await), "withdrawn");
    assert_eq!(running.state(), State::Ok);
    running.stop.cancel();
    running.task.await.unwrap();
}

#[tokio::test]
async fn keys_without_an_id_verify_and_a_new_one_is_fetched_when_none_fits() {
    let (old, new) = (ec(), ec());
    let nameless = |pair: &Pair| {
        let mut jwk = pair.jwk("unused");
        jwk.as_object_mut().unwrap().remove("kid");
        jwk
    };
    let provider = Provider::start(&[nameless(&old)]).await;
    let running = Running::of(&provider, eager());
    for kid in [None, Some("whatever")] {
        assert!(running.verifier.verify(&old.token(kid, &good())).await.is_ok(), "{kid:?}");
    }
    // What the known key has signed needs no other key, however wrong it is.
    let before = provider.asked();
    let mut expired = good();
    expired["exp"] = json!(1);
    assert_eq!(running.verifier.verify(&old.token(None, &expired)).await, Err(TokenError::Expired));
    assert!(is_bad(running.verifier.verify(&old.token(None, &json!({ "exp": soon() }))).await));
    assert_eq!(provider.asked(), before);
    for kid in [None, Some("whatever")] {
        assert!(is_bad(running.verifier.verify(&new.token(kid, &good())).await), "{kid:?}");
    }
    provider.serves(&[nameless(&new)]);
    assert!(running.verifier.verify(&new.token(None, &good())).await.is_ok(), "changed without a name");
    provider.serves(&[nameless(&old), nameless(&new)]);
    assert!(running.verifier.verify(&old.token(Some("whatever"), &good())).await.is_ok(), "beside the other");
}

#[tokio::test]
async fn all_who_wait_share_one_fetch_and_made_up_key_ids_cause_no_flood() {
    let pair = ed();
    let provider = Provider::start(&[pair.jwk("one")]).await;
    provider.answers.forget_permits(1_000);
    let patient = Pace { unknown_key_gap: Duration::from_secs(3_600), ..eager() };
    let running = Running::of(&provider, patient);
    let token = pair.token(Some("one"), &good());
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (verifier, token) = (running.verifier.clone(), token.clone());
            tokio::spawn(async move { verifier.verify(&token).await })
        })
        .collect();
    while provider.asked() == 0 {
        tokio::task::yield_now().await;
    }
    provider.answers.add_permits(1_000);
    for one in waiting {
        assert!(one.await.unwrap().is_ok());
    }
    for number in 0..50 {
        let made_up = pair.token(Some(&format!("key-{number}")), &good());
        assert!(is_bad(running.verifier.verify(&made_up).await));
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn during_an_outage_old_keys_verify_and_unknown_ones_can_be_tried_later() {
    let (old, new) = (ed(), ec());
    let provider = Provider::start(&[old.jwk("old")]).await;
    let running = Running::of(&provider, eager());
    let (old_token, new_token) = (old.token(Some("old"), &good()), new.token(Some("new"), &good()));
    assert!(running.verifier.verify(&old_token).await.is_ok());
    let bad_pages = [
        (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (StatusCode::FOUND, String::new()),
        (StatusCode::OK, "<html>".to_owned()),
        (StatusCode::OK, r#"{"keys":[]}"#.to_owned()),
        (StatusCode::OK, json!({ "keys": [new.jwk("new")], "x": "y".repeat(300_000) }).to_string()),
    ];
    for page in bad_pages {
        *provider.page.lock().unwrap() = page;
        assert_eq!(running.verifier.verify(&new_token).await, Err(TokenError::KeysUnavailable));
        assert!(running.verifier.verify(&old_token).await.is_ok());
        assert_eq!(running.state(), State::Degraded);
    }
    provider.serves(&[old.jwk("old"), new.jwk("new")]);
    assert!(running.verifier.verify(&new_token).await.is_ok(), "it comes back by itself");
    assert_eq!(running.state(), State::Ok);
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_told_and_stopping_frees_who_waits() {
    let pair = ed();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let running = Running::start(JwksSource::Url(url), eager());
    let token = pair.token(Some("one"), &good());
    assert_eq!(running.verifier.verify(&token).await, Err(TokenError::KeysUnavailable));
    assert_eq!(running.state(), State::Down);
    running.stop.cancel();
    running.task.await.unwrap();
    assert_eq!(
        running.verifier.verify(&token).await,
        Err(TokenError::KeysUnavailable),
        "nobody fetches any more"
    );
}

#[tokio::test]
async fn a_key_set_file_is_read_again_when_a_key_is_unknown() {
    let (folder, one, two) = (Folder::new(), rsa(), ed());
    let path = folder.file("jwks.json", json!({ "keys": [one.jwk("one")] }).to_string());
    let running = Running::start(JwksSource::File(path), eager());
    assert!(running.verifier.verify(&one.token(Some("one"), &good())).await.is_ok());
    folder.file("jwks.json", json!({ "keys": [one.jwk("one"), two.jwk("two")] }).to_string());
    assert!(running.verifier.verify(&two.token(Some("two"), &good())).await.is_ok());
}
