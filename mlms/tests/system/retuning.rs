//! Settings that change under players: from the file, by SIGHUP, good and bad.

use mlms_protocol::Encoding;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PATIENCE, folder};

const CALM: &str = "[limits]\nchats_per_s = 50\n";

/// Waits until a page of the admin listener says something.
async fn until_config(cluster: &Cluster, says: &str) -> String {
    let reached = async {
        loop {
            let page = cluster.admin("/admin/config").await;
            if page.contains(says) {
                return page;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.unwrap_or_else(|_| panic!("{says}"))
}

#[tokio::test]
async fn maintenance_words_and_limits_change_under_players_and_a_bad_file_changes_nothing() {
    let folder = folder();
    let file = folder.path().join("mlms.toml");
    std::fs::write(&file, CALM).unwrap();
    let path = file.display().to_string();
    let mut cluster = Cluster::with(&[("MLMS_CONFIG", &path)]).await;
    let mut ann = cluster.player_in("ann", "den").await;

    // From the file, as it is noticed by itself.
    std::fs::write(
        &file,
        format!(
            "{CALM}[maintenance]\nenabled = true\nmessage = \"back at nine\"\n[lobby]\nword_filter = [\"spam\"]\n"
        ),
    )
    .unwrap();
    let notice = ann.event("notice").await;
    assert_eq!((&notice["code"], &notice["message"]), (&"maintenance".into(), &"back at nine".into()));
    let refusal = ann.ask(json!({"op": "join", "lobby": "other", "create": true})).await.unwrap_err();
    assert_eq!((&refusal["code"], &refusal["message"]), (&"maintenance".into(), &"back at nine".into()));
    assert!(refusal["retry_ms"].is_u64());
    let quick = ann.ask(json!({"op": "find", "quick": {}})).await;
    assert_eq!(quick.unwrap_err()["code"], "maintenance");
    let mut bob = cluster.player_at("/ws?lobby=another", "bob", Encoding::Msgpack).await;
    assert_eq!(bob.event("notice").await["code"], "maintenance", "who comes now hears of it too");
    assert_eq!(bob.event("error").await["code"], "maintenance");
    bob.join("den").await;
    bob.chat("den", "what is there goes on").await;
    ann.hears("what is there goes on").await;
    let chat = |text: &str| json!({"op": "send", "lobby": "den", "kind": "chat", "body": text});
    assert_eq!(bob.ask(chat("Spam, spam")).await.unwrap_err()["code"], "rejected");

    // A bad one, by SIGHUP: refused with one line, and what was in force stays.
    cluster.expect_log("the new settings are refused");
    std::fs::write(&file, "[limits]\nchats_per_s = \"many\"\n").unwrap();
    cluster.signal("HUP");
    let page = until_config(&cluster, "# the newest settings are refused:").await;
    assert!(page.contains("key limits.chats_per_s") && page.contains("chats_per_s = 50"), "{page}");
    assert!(page.contains("enabled = true") && page.contains("word_filter = [\"spam\"]"), "{page}");
    assert!(page.contains("hs256_secret = \"(hidden)\""), "{page}");
    let complaints = cluster.log();
    let complaints: Vec<_> =
        complaints.lines().filter(|line| line.contains("settings are refused")).collect();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert_eq!(cluster.metric("mlms_settings_refused", "").await, 1.0);
    assert_eq!(cluster.health().await["services"]["settings"]["state"], "degraded");

    // Mended: the maintenance is over, and the limits are others.
    std::fs::write(&file, "[limits]\nchat_bytes_max = 10\n").unwrap();
    cluster.signal("HUP");
    for player in [&mut ann, &mut bob] {
        let over = player.event_where(|event: &Value| event["ev"] == "notice").await;
        assert_eq!(over["code"], "recovered", "{over}");
    }
    ann.ask(json!({"op": "join", "lobby": "other", "create": true})).await.unwrap();
    bob.ask(chat("spam")).await.unwrap();
    assert_eq!(bob.ask(chat("far too long")).await.unwrap_err()["code"], "too_large");
    assert_eq!(cluster.metric("mlms_settings_refused", "").await, 0.0);
    cluster.stop().await;
}
