//! The key set against a small server on loopback: read, renewed when a key is unknown, never fetched in a flood.

use super::*;

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
    let closed = closed_port();
    let url = format!("http://{}/", closed.local_addr().unwrap());
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
