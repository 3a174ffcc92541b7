//! One suite of behaviour for the store in memory, on SQLite and on a real MariaDB.

mod amqp;
mod faults;
pub(crate) mod mariadb;
mod measure;
mod reports;
mod service;
mod statistics;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mlms_protocol::code::MemberRole;
use mlms_protocol::encoding::Encoding;
use mlms_protocol::lobby::Settings;
use mlms_protocol::{Body, Change, Epoch, Kind, LobbyEvent, LobbyId, Millis, Nonce, Seq, Shard, UserId};

use crate::{PlayerPosition, Range, SaveReport, Store, StoreError};

/// A folder of its own for one test, removed at the end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("mlms-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Folder(std::env::temp_dir().join(name))
    }

    pub(crate) fn sqlite_url(&self) -> String {
        format!("sqlite://{}/deep/store.db", self.0.display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Opens and migrates.
pub(crate) async fn ready(url: &str) -> Store {
    let store = Store::open(url).await.unwrap();
    store.migrate().await.unwrap();
    store
}

macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $name() { super::$name(&super::Store::memory()).await; })*
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() {
                let folder = super::Folder::new();
                super::$name(&super::ready(&folder.sqlite_url()).await).await;
            })*
        }
        mod on_mariadb {
            $(#[tokio::test] async fn $name() {
                super::$name(&super::ready(&super::mariadb::database().await).await).await;
            })*
        }
    };
}

behaviours!(
    history_pages_both_ways_and_stops_at_its_floor,
    saving_again_changes_nothing,
    of_two_events_with_one_seq_the_higher_epoch_wins,
    every_kind_of_event_comes_back_as_it_was,
    packed_bodies_come_back_byte_for_byte,
    ids_that_look_alike_are_kept_apart,
    many_and_large_events_go_into_one_call,
    an_event_that_no_table_can_hold_is_named_and_nothing_is_saved,
    savers_at_once_save_each_event_once,
    a_players_events_are_paged_from_the_newest,
    a_snapshot_never_goes_back,
    idle_lobbies_are_found_by_their_last_activity,
    shard_epochs_only_rise,
    migrating_again_does_nothing,
    an_event_counts_once_however_often_it_comes,
    lobbies_of_the_same_players_counted_at_once_lose_nothing,
    an_award_is_kept_once_and_announced_once,
    a_shards_cursor_is_what_was_saved_last,
    a_ban_is_kept_replaced_and_lifted,
    the_audit_is_read_from_its_end,
    events_are_found_by_what_they_are_about,
    a_forgotten_player_is_in_nothing_and_no_seq_is_missing,
);

use service::{
    a_ban_is_kept_replaced_and_lifted, a_forgotten_player_is_in_nothing_and_no_seq_is_missing,
    events_are_found_by_what_they_are_about, the_audit_is_read_from_its_end,
};

use statistics::{
    a_shards_cursor_is_what_was_saved_last, an_award_is_kept_once_and_announced_once,
    an_event_counts_once_however_often_it_comes, lobbies_of_the_same_players_counted_at_once_lose_nothing,
};

pub(crate) fn lobby(id: &str) -> LobbyId {
    LobbyId::new(id).unwrap()
}

pub(crate) fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

pub(crate) fn event(id: &str, epoch: u64, seq: u64, change: Change) -> Arc<LobbyEvent> {
    let at = Millis(1_790_000_000_000 + seq);
    Arc::new(LobbyEvent { lobby: lobby(id), epoch: Epoch(epoch), seq: Seq(seq), at, change })
}

pub(crate) fn said(from: &str, body: Body) -> Change {
    let nonce = Nonce::new("n-1").ok();
    Change::Message { kind: Kind::new("chat").unwrap(), from: Some(user(from)), body, nonce, key: None }
}

pub(crate) fn chat(id: &str, epoch: u64, seq: u64) -> Arc<LobbyEvent> {
    event(id, epoch, seq, said("ann", Body::text(&format!("{id} {epoch} {seq}"))))
}

pub(crate) fn chats(id: &str, epoch: u64, seqs: std::ops::RangeInclusive<u64>) -> Vec<Arc<LobbyEvent>> {
    seqs.map(|seq| chat(id, epoch, seq)).collect()
}

pub(crate) async fn seqs(store: &Store, id: &str, range: Range, floor: u64, limit: u32) -> Vec<u64> {
    let events = store.history(&lobby(id), range, Seq(floor), limit).await.unwrap();
    events.iter().map(|event| event.seq.0).collect()
}

fn inserted(count: u64) -> SaveReport {
    SaveReport { inserted: count, ..SaveReport::default() }
}

async fn history_pages_both_ways_and_stops_at_its_floor(store: &Store) {
    let mut events = chats("a", 1, 1..=20);
    events.extend(chats("b", 1, 1..=3));
    assert_eq!(store.save_events(&events).await.unwrap(), inserted(23));
    for (range, floor, limit, expected) in [
        (Range::Latest, 0, 3, vec![18, 19, 20]),
        (Range::Latest, 18, 100, vec![19, 20]),
        (Range::Latest, 20, 100, vec![]),
        (Range::Before(Seq(5)), 0, 2, vec![3, 4]),
        (Range::Before(Seq(5)), 2, 100, vec![3, 4]),
        (Range::Before(Seq(1)), 0, 100, vec![]),
        (Range::Before(Seq(u64::MAX)), 0, 1, vec![20]),
        (Range::After(Seq(0)), 0, 2, vec![1, 2]),
        (Range::After(Seq(4)), 0, 2, vec![5, 6]),
        (Range::After(Seq(4)), 10, 2, vec![11, 12]),
        (Range::After(Seq(18)), 0, 100, vec![19, 20]),
        (Range::After(Seq(20)), 0, 100, vec![]),
        (Range::After(Seq(u64::MAX)), 0, 100, vec![]),
        (Range::Latest, 0, 0, vec![]),
    ] {
        assert_eq!(seqs(store, "a", range, floor, limit).await, expected, "{range:?} {floor} {limit}");
    }
    assert_eq!(seqs(store, "b", Range::Latest, 0, 100).await, [1, 2, 3]);
    assert_eq!(seqs(store, "nobody", Range::Latest, 0, 100).await, [0_u64; 0]);
    assert_eq!(store.save_events(&[]).await.unwrap(), SaveReport::default());
    store.ping().await.unwrap();
}

async fn saving_again_changes_nothing(store: &Store) {
    let events = chats("a", 1, 1..=150);
    assert_eq!(store.save_events(&events[..120]).await.unwrap(), inserted(120));
    let again = store.save_events(&events).await.unwrap();
    assert_eq!(again, SaveReport { inserted: 30, repeated: 120, ..SaveReport::default() });
    // Twice within one call, too.
    let twice = [chat("b", 1, 1), chat("b", 1, 1)];
    let report = store.save_events(&twice).await.unwrap();
    assert_eq!(report, SaveReport { inserted: 1, repeated: 1, ..SaveReport::default() });
    let stored = store.history(&lobby("a"), Range::After(Seq(0)), Seq(0), 1_000).await.unwrap();
    assert!(stored.iter().eq(events.iter().map(AsRef::as_ref)));
}

async fn of_two_events_with_one_seq_the_higher_epoch_wins(store: &Store) {
    store.save_events(&chats("a", 2, 1..=15)).await.unwrap();
    let mut events = chats("a", 1, 1..=5);
    events.extend(chats("a", 2, 6..=10));
    events.extend(chats("a", 3, 11..=20));
    let report = store.save_events(&events).await.unwrap();
    assert_eq!(report, SaveReport { inserted: 5, repeated: 5, replaced: 5, kept_newer: 5 });
    let stored = store.history(&lobby("a"), Range::After(Seq(0)), Seq(0), 100).await.unwrap();
    let epochs: Vec<_> = stored.iter().map(|event| event.epoch.0).collect();
    assert_eq!(epochs, [[2; 10], [3; 10]].concat());
    assert_eq!(stored[12], *chat("a", 3, 13));
}

pub(crate) fn every_change() -> Vec<Change> {
    let (ann, ben) = (user("ann"), user("Änn 🦀"));
    let by = Some(ben.clone());
    let reason = Some("\"quoted\\\" \u{1F600} ' ; --".to_owned());
    let until = Some(Millis(1_800_000_000_000));
    let attributes =
        serde_json::json!({"deep": {"list": [1, -2.5, null, "é", 18_446_744_073_709_551_615_u64]}});
    let settings =
        Settings { name: Some("Lounge 🎲".to_owned()), capacity: Some(4), ..Settings::default() };
    vec![
        said("ann", Body::text("")),
        said("ann", Body::text("a\u{0}b \u{2028} 👩‍👩‍👧‍👦 ')--")),
        Change::Message {
            kind: Kind::new("game").unwrap(),
            from: None,
            body: Body::json(&attributes),
            nonce: None,
            key: None,
        },
        Change::Message {
            kind: Kind::new("x.y-z_0").unwrap(),
            from: by.clone(),
            body: Body::json(&serde_json::Value::Null),
            nonce: Nonce::new("é".repeat(18).as_str()).ok(),
            key: Some("é".repeat(9)),
        },
        Change::Joined { user: ann.clone(), name: "Ann ".to_owned(), role: MemberRole::Host },
        Change::Left { user: ann.clone(), reason: None },
        Change::HostChanged { user: None, by: None },
        Change::HostChanged { user: Some(ann.clone()), by: by.clone() },
        Change::Updated {
            by: by.clone(),
            settings: Some(Box::new(settings)),
            user: None,
            role: None,
            attributes: None,
        },
        Change::Updated {
            by: None,
            settings: None,
            user: Some(ann.clone()),
            role: Some(MemberRole::Moderator),
            attributes: attributes.as_object().cloned(),
        },
        Change::Ready { user: ann.clone(), ready: true },
        Change::GameStarted { game: 7, by: by.clone() },
        Change::Reported {
            game: 7,
            user: ann.clone(),
            stat: "damage".to_owned(),
            amount: i64::MIN,
            by: by.clone(),
        },
        Change::GameFinished { game: 7, by: None, players: vec![ann.clone(), ben], results: None },
        Change::GameFinished {
            game: 8,
            by: None,
            players: Vec::new(),
            results: Some(Body::json(&serde_json::Value::Null)),
        },
        Change::Kicked { user: ann.clone(), by: by.clone(), reason: reason.clone() },
        Change::Banned { user: ann.clone(), by: by.clone(), until, reason: reason.clone() },
        Change::Unbanned { user: ann.clone(), by: by.clone() },
        Change::Muted { user: ann.clone(), by: by.clone(), until: None, reason },
        Change::Unmuted { user: ann.clone(), by: by.clone() },
        Change::Edited { of: Seq(1), by: ann.clone(), body: Body::text("better") },
        Change::Deleted { of: Seq(1), by: ann.clone() },
        Change::Reacted { of: Seq(2), user: ann, emoji: "👍🏽".to_owned() },
        Change::Closed { by, reason: None },
    ]
}

/// Every kind of event, also those that do not come back whole: of a lock only is told that it is there.
pub(crate) fn every_kind() -> Vec<Change> {
    let by = Some(user("ben"));
    let invite = "spring".to_owned();
    let mut changes = every_change();
    changes.extend([
        Change::Locked { by: by.clone(), hash: Some("of a password".to_owned()) },
        Change::Locked { by: None, hash: None },
        Change::Invited { invite: invite.clone(), by, uses: Some(3), until: Some(Millis(1_800_000_000_000)) },
        Change::Invited { invite: invite.clone(), by: None, uses: None, until: None },
        Change::InviteUsed { invite, user: user("ann") },
    ]);
    changes
}

async fn every_kind_of_event_comes_back_as_it_was(store: &Store) {
    let changes = every_change().into_iter().zip(1..);
    let events: Vec<_> = changes.map(|(change, seq)| event("a", 9, seq, change)).collect();
    store.save_events(&events).await.unwrap();
    let stored = store.history(&lobby("a"), Range::Latest, Seq(0), 200).await.unwrap();
    assert_eq!(stored.len(), events.len());
    for (stored, event) in stored.iter().zip(&events) {
        assert_eq!(stored, event.as_ref());
    }
}

async fn packed_bodies_come_back_byte_for_byte(store: &Store) {
    // Binary, a non-minimal integer, an integer key, not-a-number, an extension: none of it survives JSON.
    let packed: [&[u8]; 5] = [
        &[0xc4, 3, 0xff, 0x00, 0xfe],
        &[0xcd, 0x00, 0x05],
        &[0x81, 0x01, 0xa1, b'x'],
        &[0xca, 0x7f, 0xc0, 0x00, 0x00],
        &[0xd4, 0x05, 0x99],
    ];
    let body = |bytes: &[u8]| Body::new(Encoding::Msgpack, bytes).unwrap();
    let mut changes: Vec<_> = packed.iter().map(|bytes| said("ann", body(bytes))).collect();
    changes.push(Change::Edited { of: Seq(1), by: user("ann"), body: body(packed[0]) });
    changes.push(Change::GameFinished {
        game: 1,
        by: None,
        players: vec![user("ann")],
        results: Some(body(packed[2])),
    });
    let events: Vec<_> = changes.into_iter().zip(1..).map(|(c, seq)| event("p", 1, seq, c)).collect();
    store.save_events(&events).await.unwrap();
    let stored = store.history(&lobby("p"), Range::Latest, Seq(0), 200).await.unwrap();
    assert!(stored.iter().eq(events.iter().map(AsRef::as_ref)), "{stored:?}");
}

async fn ids_that_look_alike_are_kept_apart(store: &Store) {
    let users = ["bob", "bob ", "Bob", "bób", "bo\u{301}b", "b"];
    let mut events = Vec::new();
    for (name, seq) in users.iter().zip(1..) {
        events.push(event("arena", 1, seq, said(name, Body::text(name))));
    }
    events.push(chat("Arena", 1, 1));
    events.push(chat("ARENA", 1, 1));
    assert_eq!(store.save_events(&events).await.unwrap(), inserted(8));
    for (name, seq) in users.iter().zip(1..) {
        let of_user = store.player_events(&user(name), None, 10).await.unwrap();
        assert_eq!(of_user.iter().map(|e| e.seq.0).collect::<Vec<_>>(), [seq], "{name:?}");
    }
    assert_eq!(seqs(store, "arena", Range::Latest, 0, 100).await.len(), users.len());
    assert_eq!(seqs(store, "Arena", Range::Latest, 0, 100).await, [1]);
    for (id, seq) in [("arena", 1), ("Arena", 2)] {
        store.save_lobby(&lobby(id), Seq(seq), Epoch(1), Millis(1), false, id.as_bytes()).await.unwrap();
    }
    assert_eq!(store.load_lobby(&lobby("arena")).await.unwrap(), Some((Seq(1), b"arena".to_vec())));
}

async fn many_and_large_events_go_into_one_call(store: &Store) {
    let mut events = chats("many", 1, 1..=2_345);
    // Together beyond what one statement holds; the last one alone is.
    let body = |length: usize| said("ann", Body::text(&"é".repeat(length / 2)));
    events.extend((1..=150).map(|seq| event("large", 1, seq, body(60_000))));
    events.push(event("large", 1, 151, body(3 << 20)));
    assert_eq!(store.save_events(&events).await.unwrap(), inserted(2_345 + 151));
    let all = seqs(store, "many", Range::After(Seq(0)), 0, 10_000).await;
    assert!(all.iter().copied().eq(1..=2_345));
    let last = store.history(&lobby("large"), Range::Latest, Seq(0), 1).await.unwrap();
    assert_eq!(last[0], *events[events.len() - 1]);
}

async fn an_event_that_no_table_can_hold_is_named_and_nothing_is_saved(store: &Store) {
    let mut events = chats("a", 1, 1..=5);
    events[3] = chat("a", u64::MAX, 4);
    let error = store.save_events(&events).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { index: 3, .. }), "{error}");
    assert_eq!(seqs(store, "a", Range::Latest, 0, 100).await, [0_u64; 0]);
    events.remove(3);
    assert_eq!(store.save_events(&events).await.unwrap(), inserted(4));
}

async fn savers_at_once_save_each_event_once(store: &Store) {
    let mut savers = tokio::task::JoinSet::new();
    for start in 0..6_u64 {
        let store = store.clone();
        savers.spawn(async move {
            // Overlapping parts, as a deposed and a new owner's archives would save them.
            let events = chats("a", 1, start * 50 + 1..=start * 50 + 200);
            loop {
                match store.save_events(&events).await {
                    Ok(report) => return report,
                    Err(StoreError::Unavailable(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let mut total = SaveReport::default();
    while let Some(report) = savers.join_next().await {
        let report = report.unwrap();
        total.inserted += report.inserted;
        total.repeated += report.repeated;
        assert_eq!((report.replaced, report.kept_newer), (0, 0));
    }
    assert_eq!((total.inserted, total.repeated), (450, 6 * 200 - 450));
    assert_eq!(seqs(store, "a", Range::Latest, 0, 1_000).await.len(), 450);
}

async fn a_players_events_are_paged_from_the_newest(store: &Store) {
    let mut events: Vec<_> = (1..=7).map(|seq| event("a", 1, seq, said("ann", Body::text("x")))).collect();
    // The same times in another lobby, and other players between.
    events.extend((1..=7).map(|seq| event("b", 1, seq, Change::Ready { user: user("ann"), ready: true })));
    events.extend((8..=9).map(|seq| event("b", 1, seq, said("ben", Body::text("x")))));
    let kicked = Change::Kicked { user: user("ann"), by: Some(user("ben")), reason: None };
    events.push(event("b", 1, 10, kicked));
    store.save_events(&events).await.unwrap();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.player_events(&user("ann"), before.as_ref(), 4).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(PlayerPosition::of(last));
        seen.extend(page.iter().map(|event| format!("{}/{}", event.lobby, event.seq)));
    }
    let expected = "b/10 b/7 a/7 b/6 a/6 b/5 a/5 b/4 a/4 b/3 a/3 b/2 a/2 b/1 a/1";
    assert_eq!(seen.join(" "), expected);
}

async fn a_snapshot_never_goes_back(store: &Store) {
    let id = lobby("a");
    assert_eq!(store.load_lobby(&id).await.unwrap(), None);
    let large = vec![0xff; 1 << 20];
    for (seq, epoch, state, expected) in [
        (5, 1, &b"first"[..], (5, &b"first"[..])),
        (4, 9, b"older", (5, b"first")),
        (5, 0, b"of a deposed owner", (5, b"first")),
        (5, 1, b"again", (5, b"again")),
        (5, 2, b"of the new owner", (5, b"of the new owner")),
        (6, 2, &large, (6, &large)),
        (7, 2, b"", (7, b"")),
    ] {
        store.save_lobby(&id, Seq(seq), Epoch(epoch), Millis(1), false, state).await.unwrap();
        let (stored, bytes) = store.load_lobby(&id).await.unwrap().unwrap();
        assert!((stored.0, &bytes[..]) == expected, "after {seq} of epoch {epoch}: {stored}");
    }
}

async fn idle_lobbies_are_found_by_their_last_activity(store: &Store) {
    for (id, at, closed) in
        [("c", 30, false), ("a", 10, false), ("b", 20, false), ("z", 5, true), ("aa", 10, false)]
    {
        store.save_lobby(&lobby(id), Seq(1), Epoch(1), Millis(at), closed, b"").await.unwrap();
    }
    let idle = async |before, limit| {
        let found = store.idle_lobbies(None, Millis(before), limit).await.unwrap();
        found.into_iter().map(|(id, at)| format!("{id}@{at}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(idle(30, 10).await, "a@10 aa@10 b@20");
    assert_eq!(idle(u64::MAX, 10).await, "a@10 aa@10 b@20 c@30");
    assert_eq!(idle(30, 1).await, "a@10");
    assert_eq!(idle(10, 10).await, "");
    let behind = (lobby("a"), Millis(10));
    let found = store.idle_lobbies(Some(&behind), Millis(30), 10).await.unwrap();
    assert_eq!(found, [(lobby("aa"), Millis(10)), (lobby("b"), Millis(20))]);
}

async fn shard_epochs_only_rise(store: &Store) {
    assert_eq!(store.load_shard_epochs().await.unwrap(), []);
    assert_eq!(store.shard_epoch(Shard(0)).await.unwrap(), None);
    for (shard, epoch) in [(511, 3), (0, 1), (0, 4), (0, 2), (511, 3)] {
        store.save_shard_epoch(Shard(shard), Epoch(epoch)).await.unwrap();
    }
    assert_eq!(store.load_shard_epochs().await.unwrap(), [(Shard(0), Epoch(4)), (Shard(511), Epoch(3))]);
    assert_eq!(store.shard_epoch(Shard(0)).await.unwrap(), Some(Epoch(4)));
    assert_eq!(store.shard_epoch(Shard(1)).await.unwrap(), None);
}

async fn migrating_again_does_nothing(store: &Store) {
    store.save_events(&chats("a", 1, 1..=2)).await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(seqs(store, "a", Range::Latest, 0, 10).await, [1, 2]);
}
