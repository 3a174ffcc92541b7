//! The operator's listener over real TCP.

use std::time::Duration;

use axum::routing::post;
use mlms_protocol::UserId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{ProcessRole, Settings};
use crate::jwt::{Minter, install_crypto_provider};

struct Listener {
    address: SocketAddr,
    health: Health,
    readiness: Readiness,
    minter: Minter,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Listener {
    async fn start(bind: &str) -> Listener {
        install_crypto_provider();
        let mut settings = Settings::defaults(ProcessRole::Standalone);
        settings.jwt.hs256_secret = Some("a secret of more than thirty-two bytes".into());
        let listener = TcpListener::bind(bind).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let metrics = Metrics::new("0", "test");
        let admin = Admin {
            health: Health::new(),
            readiness: Readiness::new(),
            saturation: Saturation::new(&metrics, 1_000, 1_000_000),
            metrics,
            verifier: Some(Verifier::new(&settings.jwt).unwrap().0),
            routes: Router::new().route("/admin/drain", post(async || "draining")),
        };
        let stop = CancellationToken::new();
        Listener {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            health: admin.health.clone(),
            readiness: admin.readiness.clone(),
            minter: Minter::new(&settings.jwt).unwrap(),
            stop: stop.clone(),
            task: tokio::spawn(admin.serve(listener, stop)),
        }
    }

    fn token(&self, roles: &[Role]) -> String {
        self.minter.mint(&UserId::new("op").unwrap(), None, roles, Duration::from_secs(60)).token
    }

    /// The status and the body of one request.
    async fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        let host = if headers.contains("host:") { "" } else { "host: localhost:9080\r\n" };
        let request = format!("{line} HTTP/1.1\r\n{host}connection: close\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn probes_health_and_metrics_tell_the_state() {
    let admin = Listener::start("127.0.0.1:0").await;
    let gate = admin.readiness.dependency("redis");
    let journal = admin.health.component("journal");
    assert_eq!(admin.ask("GET /live", "").await, (200, "alive\n".to_owned()));
    let (status, body) = admin.ask("GET /ready", "").await;
    assert_eq!((status, body.as_str()), (503, r#"{"missing":{"redis":"not yet there"},"ready":false}"#));
    gate.open();
    assert_eq!(admin.ask("GET /ready", "").await.0, 200);

    journal.degraded("slow disk");
    let (status, body) = admin.ask("GET /ready", "").await;
    assert_eq!((status, body.as_str()), (200, r#"{"degraded":["journal"],"missing":{},"ready":true}"#));
    let (status, body) = admin.ask("GET /health", "").await;
    let page: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200, "health is for people, never a probe");
    assert_eq!((&page["state"], &page["ready"]), (&"degraded".into(), &true.into()));
    assert_eq!(page["services"]["journal"]["cause"], "slow disk");
    assert!(page["services"]["journal"]["since"].is_u64());

    let (status, page) = admin.ask("GET /metrics", "").await;
    assert_eq!(status, 200);
    for name in [
        "mlms_build_info{",
        "mlms_connections{listener=\"admin\"}",
        "process_resident_memory_bytes",
        "mlms_ready 1",
        "mlms_draining 0",
    ] {
        assert!(page.contains(name), "{name}: {page}");
    }
    let (_, scale) = admin.ask("GET /scale", "").await;
    assert_eq!(scale, r#"{"connections":0,"connections_max":1000,"saturation":0.0,"signal":"connections"}"#);
    admin.readiness.drain();
    assert_eq!(admin.ask("GET /ready", "").await.0, 503);
    let page = admin.ask("GET /metrics", "").await.1;
    assert!(page.contains("mlms_ready 0\n") && page.contains("mlms_draining 1\n"), "{page}");
    assert_eq!(admin.ask("GET /live", "").await.0, 200);
    assert_eq!(admin.ask("GET /nothing", "").await.0, 404);
    admin.stop().await;
}

#[tokio::test]
async fn on_loopback_the_machine_passes_and_web_pages_do_not() {
    let admin = Listener::start("127.0.0.1:0").await;
    let drain = "POST /admin/drain";
    assert_eq!(admin.ask(drain, "").await, (200, "draining".to_owned()));
    assert_eq!(admin.ask(drain, "host: 127.0.0.1:9080\r\n").await.0, 200);
    assert_eq!(admin.ask(drain, "host: [::1]:9080\r\n").await.0, 200);
    assert_eq!(admin.ask(drain, "origin: https://evil.example\r\n").await.0, 403);
    assert_eq!(admin.ask("GET /health", "host: rebound.example:9080\r\n").await.0, 403);
    assert_eq!(admin.ask("GET /live", "host: 10.0.0.7:9080\r\n").await.0, 200, "probes come by any name");
    admin.stop().await;
}

#[tokio::test]
async fn beyond_loopback_only_an_admin_passes() {
    let admin = Listener::start("0.0.0.0:0").await;
    let bearer = |token: String| format!("authorization: Bearer {token}\r\n");
    for path in ["GET /live", "GET /ready", "GET /metrics", "GET /scale"] {
        assert_eq!(admin.ask(path, "").await.0, 200, "{path}");
    }
    for (path, expected) in [("GET /health", 200), ("POST /admin/drain", 200)] {
        assert_eq!(admin.ask(path, "").await.0, 401, "{path}");
        assert_eq!(admin.ask(path, "authorization: Bearer x.y.z\r\n").await.0, 401, "{path}");
        assert_eq!(admin.ask(path, &bearer(admin.token(&[Role::Moderator]))).await.0, 403, "{path}");
        assert_eq!(admin.ask(path, &bearer(admin.token(&[Role::Admin]))).await.0, expected, "{path}");
    }
    admin.stop().await;
}
