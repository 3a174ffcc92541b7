//! The other ways to speak: over TLS, and in MessagePack.

use mlms_test_servers::{Folder, tls};

use crate::bench::run;
use crate::proxy;
use crate::service::Service;

const TALK: &str = r#"
name = "talk"
clients.count = 20
clients.msgpack = 0.5
lobbies.sizes = [{ members = 5 }]
thresholds = ["connect_failures <= 0", "errors <= 0"]

[[senders]]
rate = 4
bytes = [60, 3000]

[[senders]]
rate = 10
kind = "game"
bytes = 70

[churn]
disconnect_per_minute = 20
leave_per_minute = 20
away_ms = [50, 200]

[[phases]]
name = "come"
seconds = 2
load = 0

[[phases]]
name = "talk"
seconds = 3

[generator]
lag_p99_ms = 10000
"#;

#[test]
fn tls_and_both_encodings_are_checked_alike() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let file = folder.path().join("talk.toml");
    std::fs::write(&file, TALK).unwrap();
    let (file, url) = (file.to_str().unwrap(), proxy::serve(&service.url()));
    let ran = run(file, &url, &["--ca", tls::AUTHORITY]);
    ran.expect(0);
    let counts = &ran.result["total"]["counts"];
    // Five times what was sent, less what somebody was away for.
    let (sent, delivered) = (counts["sent"].as_u64().unwrap(), counts["deliveries"].as_u64().unwrap());
    assert!(sent > 0 && delivered > sent, "{sent} sent, {delivered} delivered: {}", ran.text);
    assert!(counts["joins"].as_u64() > Some(20), "some came back: {}", ran.text);

    let short = ["--seconds", "0.5"];
    let ran = run(file, &url, &short);
    assert!(ran.expect(1).text.contains("invalid peer certificate"), "{}", ran.text);
    // Guests' tokens come over TLS too.
    run(file, &url, &[&short[..], &["--insecure", "--guests"]].concat()).expect(0);
}
