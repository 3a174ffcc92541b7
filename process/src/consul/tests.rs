//! The watch against a server that follows Consul's documented semantics, and against ones that do not.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::consul::{Consul, Said};

fn watch(consul: &Consul, wait: Duration) -> Watch {
    let settings = ConsulSettings {
        url: Some(consul.url()),
        key: "mlms/settings".to_owned(),
        token: Some("a-token".to_owned().into()),
        wait,
    };
    let pace = Pace {
        refill: Duration::from_millis(1),
        pause: Duration::from_millis(1),
        pause_max: Duration::from_millis(4),
    };
    Watch { pace, ..Watch::new(&settings).unwrap().unwrap() }
}

fn value(text: &str) -> Answer {
    Answer::Value(Some(text.to_owned()))
}

#[tokio::test]
async fn a_change_answers_the_question_that_waits_for_it() {
    let consul = Consul::start(VecDeque::new()).await;
    let mut watch = watch(&consul, Duration::from_secs(60));
    assert_eq!(watch.next().await, Answer::Value(None), "there is no such key");
    let waiting = tokio::spawn(async move {
        let first = watch.next().await;
        (watch, first)
    });
    consul.asked(2).await;
    consul.put("one");
    let (mut watch, first) = waiting.await.unwrap();
    assert_eq!(first, value("one"));
    consul.put("two");
    assert_eq!(watch.next().await, value("two"), "what changed between two questions is not missed");
    let asked = consul.questions();
    assert_eq!(asked[0], "/v1/kv/mlms/settings?raw");
    assert_eq!(asked[1], "/v1/kv/mlms/settings?raw&index=1&wait=60000ms");
    assert_eq!(asked[2], "/v1/kv/mlms/settings?raw&index=2&wait=60000ms");
    assert!(consul.tokens().iter().all(|token| token == "a-token"));
}

#[tokio::test]
async fn a_wait_that_is_over_brings_the_same_again() {
    let consul = Consul::start(VecDeque::new()).await;
    consul.put("one");
    let mut watch = watch(&consul, Duration::from_millis(30));
    for _ in 0..4 {
        assert_eq!(watch.next().await, value("one"));
    }
    let asked = consul.questions();
    assert!(asked[1..].iter().all(|question| question.ends_with("index=2&wait=30ms")), "{asked:?}");
}

#[tokio::test]
async fn an_index_that_goes_backwards_begins_anew_and_none_is_below_one() {
    let said = |index, body: &str| Said { status: 200, index: Some(index), body: body.to_owned() };
    let script = [said(40, "a"), said(7, "b"), said(7, "b"), said(0, "c"), said(0, "c"), said(0, "c")];
    let consul = Consul::start(script.into()).await;
    let mut watch = watch(&consul, Duration::from_secs(60));
    for expected in ["a", "b", "b", "c", "c", "c"] {
        assert_eq!(watch.next().await, value(expected));
    }
    let indexes: Vec<_> = consul.questions().iter().map(|question| index_asked(question)).collect();
    // 40, then back to 0; 7, then back to 0 (it was below 7); 0 is waited for as 1, and below 1 it begins anew.
    assert_eq!(indexes, [0, 40, 0, 7, 0, 1]);
}

fn index_asked(question: &str) -> u64 {
    let index = question.split('&').find_map(|part| part.strip_prefix("index="));
    index.map_or(0, |index| index.parse().unwrap())
}

#[tokio::test]
async fn what_fails_is_asked_again_from_the_beginning() {
    let failing = |status, index| Said { status, index, body: "x".to_owned() };
    let good = |index| Said { status: 200, index: Some(index), body: "good".to_owned() };
    let script =
        [good(9), failing(500, Some(9)), good(9), failing(403, Some(9)), failing(200, None), good(3)];
    let consul = Consul::start(script.into()).await;
    let mut watch = watch(&consul, Duration::from_secs(60));
    assert_eq!(watch.next().await, value("good"));
    assert!(matches!(watch.next().await, Answer::Failed(why) if why.contains("500")));
    assert_eq!(watch.next().await, value("good"));
    assert!(matches!(watch.next().await, Answer::Failed(why) if why.contains("403")));
    assert!(matches!(watch.next().await, Answer::Failed(why) if why.contains("X-Consul-Index")));
    assert_eq!(watch.failures, 2);
    assert_eq!(watch.next().await, value("good"));
    let indexes: Vec<_> = consul.questions().iter().map(|question| index_asked(question)).collect();
    assert_eq!(indexes, [0, 9, 0, 9, 0, 0]);
}

#[tokio::test]
async fn a_key_that_churns_is_polled_and_not_chased() {
    let churning = |index| Said { status: 200, index: Some(index), body: index.to_string() };
    let consul = Consul::start((1..=8).map(churning).collect()).await;
    let mut watch = watch(&consul, Duration::from_secs(60));
    watch.pace.refill = Duration::from_millis(40);
    let began = Instant::now();
    for _ in 0..8 {
        watch.next().await;
    }
    // The first three at once, the others one a refill.
    assert!(began.elapsed() >= Duration::from_millis(190), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_says_nothing_or_too_much_is_given_up() {
    let closed = crate::testing::closed_port();
    let settings = ConsulSettings {
        url: Some(format!("http://{}", closed.local_addr().unwrap())),
        key: "k".to_owned(),
        token: None,
        wait: Duration::from_secs(1),
    };
    let mut watch = Watch::new(&settings).unwrap().unwrap();
    assert!(matches!(watch.next().await, Answer::Failed(_)), "nobody listens");
    let endless = Said { status: 200, index: Some(1), body: "x".repeat(BYTES_MAX + 1) };
    let consul = Consul::start([endless].into()).await;
    watch.server = Server::new(&consul.url()).unwrap();
    watch.failures = 0;
    assert!(matches!(watch.next().await, Answer::Failed(_)), "longer than a value may be");
}

#[tokio::test(start_paused = true)]
async fn the_client_waits_longer_than_the_server() {
    // It accepts and never answers; under a paused clock the patience passes at once.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let consul = Arc::new(Mutex::new(Vec::new()));
    let keeping = Arc::clone(&consul);
    let url = format!("http://{}", silent.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = silent.accept().await {
            keeping.lock().unwrap().push(stream);
        }
    });
    let settings =
        ConsulSettings { url: Some(url), key: "k".to_owned(), token: None, wait: Duration::from_secs(160) };
    let began = Instant::now();
    let answer = Watch::new(&settings).unwrap().unwrap().next().await;
    assert!(matches!(answer, Answer::Failed(why) if why.contains("no answer within")));
    assert_eq!(began.elapsed().as_secs(), 180, "160, a sixteenth, and ten");
}
