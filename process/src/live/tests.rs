//! Changes of the file and of Consul, good and bad.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::*;
use crate::config::{FileSource, ProcessRole, SharedFlags};
use crate::health::{Health, State};
use crate::testing::Folder;
use crate::testing::consul::Consul;

/// Settings of a standalone process from a file whose text can be changed.
fn live(text: &str) -> (Live, Arc<Mutex<String>>) {
    let file = Arc::new(Mutex::new(text.to_owned()));
    let shared = Arc::clone(&file);
    let read = move || {
        let text = Ok(shared.lock().unwrap().clone());
        Sources::of([], &SharedFlags::default())
            .with_file(FileSource { path: PathBuf::from("mlms.toml"), text })
    };
    let settings = Settings::load(ProcessRole::Standalone, &read()).unwrap();
    (Live::new(settings, None, read), file)
}

fn start(live: &Live, stop: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (live, stop) = (live.clone(), stop.clone());
    tokio::spawn(async move { live.run(&Registry::new(), Health::new().component("settings"), stop).await })
}

#[test]
fn limits_and_the_log_change_and_the_rest_waits() {
    let (live, file) = live("[limits]\nchats_per_s = 5\n");
    let mut watch = live.watch();
    assert_eq!(live.reload().unwrap(), Reloaded::default());
    assert!(!watch.has_changed().unwrap());
    *file.lock().unwrap() = "heartbeat_ms = 9000\n[limits]\nchats_per_s = 7\nconnections_per_address_max = 9\n[log]\nfilter = \"debug\"\n".to_owned();
    let reloaded = live.reload().unwrap();
    assert_eq!(reloaded.changed, ["log.filter", "limits.chats_per_s"]);
    assert_eq!(reloaded.waiting, ["heartbeat_ms", "limits.connections_per_address_max"]);
    let settings = watch.borrow_and_update().clone();
    assert_eq!((settings.limits.chats_per_s, settings.log.filter.as_str()), (7, "debug"));
    assert_eq!(settings.heartbeat, Duration::from_millis(25_000));
    assert_eq!(settings.limits.connections_per_address_max, 100);
}

#[test]
fn a_bad_file_is_refused_and_the_old_settings_stay() {
    let (live, file) = live("[limits]\nchats_per_s = 5\n");
    for bad in ["[limits]\nchats_per_s = \"many\"\n", "[limits]\nchat_per_s = 9\n", "[limits\n"] {
        *file.lock().unwrap() = bad.to_owned();
        let error = live.reload().unwrap_err().to_string();
        assert!(error.contains("mlms.toml"), "{error}");
        assert_eq!(live.settings().limits.chats_per_s, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_noticed_and_an_unchanged_one_is_not() {
    let (live, file) = live("");
    let stop = CancellationToken::new();
    let task = start(&live, &stop);
    let mut watch = live.watch();
    assert!(tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.is_err());
    *file.lock().unwrap() = "[limits]\nmembers_per_lobby_max = 12\n".to_owned();
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
    assert_eq!(watch.borrow().limits.members_per_lobby_max, 12);
    stop.cancel();
    task.await.unwrap();
}

/// A folder as the kubelet mounts a ConfigMap: the file is a link through `..data`, which is swapped as a whole.
fn mount(folder: &Path, version: &str, text: &str) {
    let data = folder.join(version);
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("mlms.toml"), text).unwrap();
    std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    let link = folder.join("mlms.toml");
    if !link.exists() {
        std::os::unix::fs::symlink("..data/mlms.toml", link).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_mounted_configmap_that_is_swapped_is_noticed() {
    let folder = Folder::new();
    mount(folder.path(), "..2026_01", "[maintenance]\nenabled = false\n");
    let flags = SharedFlags { config: Some(folder.path().join("mlms.toml")), ..SharedFlags::default() };
    let read = move || Sources::of([], &flags);
    let settings = Settings::load(ProcessRole::Standalone, &read()).unwrap();
    let live = Live::new(settings, None, read);
    let stop = CancellationToken::new();
    let task = start(&live, &stop);
    let mut watch = live.watch();
    mount(
        folder.path(),
        "..2026_02",
        "[maintenance]\nenabled = true\nmessage = \"soon back\"\n[lobby]\nword_filter = [\"spam\", \"bad*\"]\n",
    );
    tokio::time::timeout(Duration::from_secs(60), watch.changed()).await.unwrap().unwrap();
    let settings = watch.borrow().clone();
    assert_eq!(settings.maintenance.notice(), Some("soon back"));
    assert_eq!(settings.lobby.word_filter, ["spam", "bad*"]);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn consul_outweighs_the_file_and_what_is_bad_there_changes_nothing() {
    let consul = Consul::start(VecDeque::new()).await;
    let (live, _file) =
        live(&format!("[limits]\nchats_per_s = 5\n[consul]\nurl = \"{}\"\ntoken = \"hush\"\n", consul.url()));
    let stop = CancellationToken::new();
    let (health, registry) = (Health::new(), Registry::new());
    let task = tokio::spawn({
        let (live, stop, component) = (live.clone(), stop.clone(), health.component("settings"));
        let registry = registry.clone();
        async move { live.run(&registry, component, stop).await }
    });
    let mut watch = live.watch();
    consul.asked(1).await;
    consul.put("heartbeat_ms = 9000\n[limits]\nchats_per_s = 7\n");
    watch.changed().await.unwrap();
    assert_eq!(watch.borrow_and_update().limits.chats_per_s, 7);
    let page = live.page();
    assert!(page.contains("waiting for a restart: heartbeat_ms\n"), "{page}");
    assert!(page.contains("chats_per_s = 7") && page.contains("token = \"(hidden)\""), "{page}");
    assert!(!page.contains("hush"), "{page}");

    consul.put("[limits]\nchats_per_s = \"many\"\n");
    let refused =
        || live.page().lines().any(|line| line.contains("are refused: consul mlms/settings, line 2"));
    until(refused).await;
    assert_eq!(live.settings().limits.chats_per_s, 7, "the old one stays");
    assert_eq!(health.report()["settings"].state, State::Degraded);

    consul.delete();
    watch.changed().await.unwrap();
    assert_eq!(watch.borrow().limits.chats_per_s, 5, "without the key the file counts");
    until(|| health.report()["settings"].state == State::Ok).await;
    assert!(!live.page().contains("refused"));
    stop.cancel();
    task.await.unwrap();
}

async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes about");
}
