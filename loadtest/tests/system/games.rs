//! Games that play themselves, against a real service.

use mlms_test_servers::Folder;

use crate::bench::run;
use crate::service::Service;

const GAMES: &str = r#"
name = "games"
clients.count = 12
clients.enter = "user"
lobbies.sizes = [{ members = 4 }]
lobbies.settings = { capacity = 4, reports = "members" }
thresholds = ["games_missing <= 0", "connect_failures <= 0"]

[game]
rounds = 2
seconds = 0.7
actions_per_s = 20
bytes = 80

[[phases]]
name = "play"
seconds = 4

[generator]
lag_p99_ms = 10000
"#;

#[test]
fn every_game_is_played_to_its_end_and_every_action_checked() {
    let (service, folder) = (Service::start(), Folder::new("loadtest"));
    let file = folder.path().join("games.toml");
    std::fs::write(&file, GAMES).unwrap();
    let ran = run(file.to_str().unwrap(), &service.url(), &[]);
    ran.expect(0);
    assert_eq!(ran.result["games_finished"], 6);
    let counts = &ran.result["total"]["counts"];
    let (sent, delivered) = (counts["sent"].as_u64().unwrap(), counts["deliveries"].as_u64().unwrap());
    assert!(sent > 100 && delivered == 4 * sent, "{sent} sent, {delivered} delivered\n{}", ran.text);
}
