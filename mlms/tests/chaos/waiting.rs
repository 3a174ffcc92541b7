//! Processes that start before what they need: they live, are not ready, say why, can be told to stop, and go on by
//! themselves when it comes. Whoever watches them has no reason to start them again.

use serde_json::Value;
use tokio::time::Instant;

use mlms_test_servers::{Folder, Redis};

use crate::service::{GLANCE, PATIENCE, Service, get};

async fn page(service: &Service, path: &str) -> Option<(u16, Value)> {
    let (status, body) = get(service.admin_port, path).await?;
    Some((status, serde_json::from_str(&body).unwrap()))
}

/// Why the process is not put together yet; None: it is.
async fn waits_for(service: &Service) -> Option<String> {
    let (_, page) = page(service, "/ready").await?;
    page["missing"]["start"].as_str().map(str::to_owned)
}

async fn until(what: &str, service: &mut Service, mut holds: impl AsyncFnMut(&Service) -> bool) {
    let began = Instant::now();
    while !holds(service).await {
        assert!(service.runs(), "{} ended\n{}", service.name, service.log());
        assert!(began.elapsed() < PATIENCE, "{}: {what} did not come\n{}", service.name, service.log());
        tokio::time::sleep(GLANCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_before_its_servers_waits_alive_and_goes_on() {
    let folder = Folder::new("waiting");
    let mut redis = Redis::start().await;
    redis.stop();
    let environment = |store: &str| -> Vec<(String, String)> {
        let pairs = [
            ("MLMS_REDIS_URL", redis.url()),
            ("MLMS_DATABASE_URL", store.to_owned()),
            ("MLMS_CLUSTER_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".to_owned()),
            ("MLMS_JWT_HS256_SECRET", "a secret of the tests, long enough".to_owned()),
            ("MLMS_DRAIN_SECONDS", "1".to_owned()),
            ("MLMS_LOG_FORMAT", "json".to_owned()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).to_vec()
    };
    let nowhere = "mysql://mlms:x@127.0.0.1:1/mlms";
    let store = format!("sqlite://{}", folder.path().join("store.db").display());
    let mut broker = Service::new("broker", "broker".to_owned(), environment(nowhere));
    let mut node = Service::new("lobby-node", "node-1".to_owned(), environment(&store));
    let mut stuck = Service::new("lobby-node", "node-2".to_owned(), environment(nowhere));
    for service in [&mut broker, &mut node, &mut stuck] {
        service.spawn(folder.path());
    }
    for service in [&mut broker, &mut node, &mut stuck] {
        let hears = async |service: &Service| {
            waits_for(service).await.is_some_and(|why| why.starts_with("waiting for Redis: "))
        };
        until("the reason", service, hears).await;
        assert!(service.is_live().await);
        let (status, ready) = page(service, "/ready").await.unwrap();
        assert_eq!((status, &ready["ready"]), (503, &Value::Bool(false)));
        let (_, health) = page(service, "/health").await.unwrap();
        assert_eq!(
            (&health["state"], &health["services"]["start"]["state"]),
            (&"down".into(), &"down".into())
        );
        // It would end whoever does not listen yet.
        service.signal("HUP");
    }
    assert_eq!(get(broker.admin_port, "/debug/route?lobby=lounge").await.unwrap().0, 404);

    redis.launch().await;
    for service in [&mut broker, &mut node] {
        until("readiness", service, async |service| {
            page(service, "/ready").await.is_some_and(|ready| ready.0 == 200)
        })
        .await;
        let (_, health) = page(service, "/health").await.unwrap();
        assert_eq!(health["services"]["start"]["state"], "ok", "{health}");
    }
    assert_eq!(get(broker.admin_port, "/debug/route?lobby=lounge").await.unwrap().0, 200);

    // The other node's database never comes: it waits on, and is told to stop in the middle of it.
    let hears = async |service: &Service| {
        waits_for(service).await.is_some_and(|why| why.starts_with("waiting for the database"))
    };
    until("the other reason", &mut stuck, hears).await;
    for service in [&mut stuck, &mut broker, &mut node] {
        service.stop().await;
    }
}
