//! Games, statistics and awards.

use super::*;
use crate::{Award, GAMES_FINISHED, GameEvent, Message, Statistic};

fn reported(id: &str, seq: u64, game: u64, who: &str, amount: i64) -> Arc<LobbyEvent> {
    let stat = "damage".to_owned();
    event(id, 1, seq, Change::Reported { game, user: user(who), stat, amount, by: None })
}

fn finished(id: &str, seq: u64, game: u64, players: &[&str]) -> Arc<LobbyEvent> {
    let players = players.iter().map(|id| user(id)).collect();
    event(id, 1, seq, Change::GameFinished { game, by: None, players, results: None })
}

fn games(events: &[Arc<LobbyEvent>]) -> Vec<GameEvent> {
    events.iter().filter_map(|event| GameEvent::of(event)).collect()
}

/// Two games in one lobby, one in another.
fn evening() -> Vec<Arc<LobbyEvent>> {
    vec![
        chat("a", 1, 1),
        reported("a", 2, 1, "ann", 300),
        reported("a", 3, 1, "ben", 20),
        reported("a", 4, 1, "ann", 250),
        finished("a", 5, 1, &["ann", "ben"]),
        reported("a", 6, 2, "ann", 100),
        reported("b", 1, 1, "ann", 7),
        finished("b", 2, 1, &["ann", "Änn 🦀"]),
    ]
}

async fn of(store: &Store, who: &str, stat: &str) -> Option<(i64, i64, i64)> {
    let statistics = store.statistics(&user(who)).await.unwrap();
    statistics.get(stat).map(|statistic| (statistic.times, statistic.total, statistic.highest))
}

async fn is_the_evening(store: &Store) {
    assert_eq!(of(store, "ann", "damage").await, Some((4, 657, 550)));
    assert_eq!(of(store, "ann", GAMES_FINISHED).await, Some((2, 2, 1)));
    assert_eq!(of(store, "ben", "damage").await, Some((1, 20, 20)));
    assert_eq!(of(store, "Änn 🦀", GAMES_FINISHED).await, Some((1, 1, 1)));
    assert_eq!(of(store, "nobody", GAMES_FINISHED).await, None);
}

pub(super) async fn lobbies_of_the_same_players_counted_at_once_lose_nothing(store: &Store) {
    const LOBBIES: u64 = 8;
    const GAMES: u64 = 10;
    let mut counting = tokio::task::JoinSet::new();
    for lobby in 0..LOBBIES {
        let store = store.clone();
        counting.spawn(async move {
            let id = format!("lobby-{lobby}");
            for game in 1..=GAMES {
                let seq = game * 3;
                let events = games(&[
                    reported(&id, seq, game, "ann", 3),
                    reported(&id, seq + 1, game, "ben", 5),
                    finished(&id, seq + 2, game, &["ann", "ben"]),
                ]);
                loop {
                    match store.fold(&events).await {
                        Ok(counted) => break assert_eq!(counted, 3),
                        Err(StoreError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
    while let Some(counted) = counting.join_next().await {
        counted.unwrap();
    }
    let all = i64::try_from(LOBBIES * GAMES).unwrap();
    assert_eq!(of(store, "ann", "damage").await, Some((all, 3 * all, 3)));
    assert_eq!(of(store, "ben", "damage").await, Some((all, 5 * all, 5)));
    assert_eq!(of(store, "ben", GAMES_FINISHED).await, Some((all, all, 1)));
}

pub(super) async fn an_event_counts_once_however_often_it_comes(store: &Store) {
    let events = games(&evening());
    // One by one, then from the start in pieces that overlap, as after crashes.
    assert_eq!(store.fold(&events[..1]).await.unwrap(), 1);
    assert_eq!(store.fold(&events[..3]).await.unwrap(), 2);
    assert_eq!(store.fold(&events).await.unwrap(), 4);
    assert_eq!(store.fold(&events[2..]).await.unwrap(), 0);
    assert_eq!(store.fold(&[]).await.unwrap(), 0);
    is_the_evening(store).await;
    // The second game goes on where it was.
    assert_eq!(store.fold(&games(&[reported("a", 7, 2, "ann", 500)])).await.unwrap(), 1);
    assert_eq!(of(store, "ann", "damage").await, Some((5, 1_157, 600)));
}

pub(super) async fn an_award_is_kept_once_and_announced_once(store: &Store) {
    let award = |who: &str, achievement: &str, at| Award {
        user: user(who),
        achievement: achievement.to_owned(),
        at: Millis(at),
    };
    let (veteran, bruiser) = (award("ann", "veteran", 5), award("ann", "bruiser", 3));
    for (award, is_new) in
        [(&veteran, true), (&bruiser, true), (&veteran, false), (&award("ben", "veteran", 9), true)]
    {
        assert_eq!(store.add_award(award).await.unwrap(), is_new);
    }
    assert!(!store.add_award(&award("ann", "veteran", 8)).await.unwrap());
    assert_eq!(store.awards(&user("ann")).await.unwrap(), [bruiser.clone(), veteran.clone()]);
    assert_eq!(store.awards(&user("nobody")).await.unwrap(), []);
    assert_eq!(store.unannounced(10).await.unwrap().len(), 3);
    store.announced(&[veteran, bruiser]).await.unwrap();
    assert_eq!(store.unannounced(10).await.unwrap(), [award("ben", "veteran", 9)]);
}

pub(super) async fn a_shards_cursor_is_what_was_saved_last(store: &Store) {
    assert_eq!(store.load_published(Shard(7)).await.unwrap(), None);
    store.save_published(&[(Shard(7), 1, 5), (Shard(8), 2, 1)]).await.unwrap();
    store.save_published(&[(Shard(7), 3, 1)]).await.unwrap();
    assert_eq!(store.load_published(Shard(7)).await.unwrap(), Some((3, 1)));
    assert_eq!(store.load_published(Shard(8)).await.unwrap(), Some((2, 1)));
}

async fn on_both(check: impl AsyncFn(&Store)) {
    let folder = Folder::new();
    for url in [folder.sqlite_url(), mariadb::database().await] {
        check(&ready(&url).await).await;
    }
}

#[tokio::test]
async fn counting_again_gives_the_same_and_mends_what_is_wrong() {
    on_both(async |store| {
        store.save_events(&evening()).await.unwrap();
        // Nothing was counted so far: events from before there was a service that counts.
        for id in ["a", "b"] {
            store.recount(&lobby(id)).await.unwrap();
        }
        is_the_evening(store).await;
        // They come late, and again, over the queue.
        assert_eq!(store.fold(&games(&evening())).await.unwrap(), 0);
        assert_eq!(store.recount(&lobby("a")).await.unwrap(), 5);
        is_the_evening(store).await;
        // Counted, and not in the store: that counts no more.
        store.fold(&games(&[reported("b", 3, 2, "ben", 9)])).await.unwrap();
        store.recount(&lobby("b")).await.unwrap();
        assert_eq!(of(store, "ben", "damage").await.unwrap().1, 20);
        // The running game goes on.
        store.save_events(&[reported("a", 7, 2, "ann", 500)]).await.unwrap();
        store.fold(&games(&[reported("a", 7, 2, "ann", 500)])).await.unwrap();
        assert_eq!(of(store, "ann", "damage").await, Some((5, 1_157, 600)));
        let found = store.statistics_of("damage", None, 10).await.unwrap();
        assert_eq!(found.iter().map(|(user, _)| user.as_str()).collect::<Vec<_>>(), ["ann", "ben"]);
        assert_eq!(store.statistics_of("damage", Some(&user("ann")), 10).await.unwrap().len(), 1);
        assert_eq!(store.statistics_of("damage", None, 1).await.unwrap()[0].0, user("ann"));
    })
    .await;
}

#[tokio::test]
async fn a_recount_while_others_count_misses_and_doubles_nothing() {
    on_both(async |store| {
        let events: Vec<_> = (1..=60).map(|seq| reported("a", seq, 1, "ann", 1)).collect();
        store.save_events(&events).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for brings in 0..3 {
            let (store, events) = (store.clone(), games(&events));
            tasks.spawn(async move {
                for event in events.chunks(3 + brings) {
                    while store.fold(event).await.is_err() {}
                }
            });
        }
        let again = store.clone();
        tasks.spawn(async move {
            for _ in 0..10 {
                while again.recount(&lobby("a")).await.is_err() {}
            }
        });
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(of(store, "ann", "damage").await, Some((60, 60, 60)));
    })
    .await;
}

#[tokio::test]
async fn purging_keeps_what_counts_and_says_how_far_it_went() {
    on_both(async |store| {
        store.save_events(&evening()).await.unwrap();
        assert_eq!(store.count_lobbies().await.unwrap(), 2);
        assert_eq!(store.lobbies_after(None, 10).await.unwrap(), [lobby("a"), lobby("b")]);
        assert_eq!(store.lobbies_after(Some(&lobby("a")), 10).await.unwrap(), [lobby("b")]);
        assert_eq!(store.purge(&lobby("a"), Seq(0), Seq(4)).await.unwrap(), 1);
        assert_eq!(store.purge(&lobby("a"), Seq(0), Seq(4)).await.unwrap(), 0);
        assert_eq!(store.purged_through(&lobby("a")).await.unwrap(), Seq(4));
        assert_eq!(store.purged_through(&lobby("b")).await.unwrap(), Seq(0));
        let left = store.places(&lobby("a"), Seq(0), 100).await.unwrap();
        assert_eq!(left.iter().map(|place| place.seq.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert_eq!(store.game_events(&lobby("a"), Seq(2), 2).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn of_purges_at_once_the_one_that_goes_further_counts() {
    on_both(async |store| {
        store.save_events(&chats("a", 1, 1..=400)).await.unwrap();
        let mut purges = tokio::task::JoinSet::new();
        for through in [100, 300, 200, 50, 300, 250] {
            let store = store.clone();
            purges.spawn(async move { store.purge(&lobby("a"), Seq(0), Seq(through)).await });
        }
        let mut purged = 0;
        while let Some(outcome) = purges.join_next().await {
            purged += outcome.unwrap().unwrap();
        }
        assert_eq!(purged, 300, "each event was removed once");
        assert_eq!(store.purged_through(&lobby("a")).await.unwrap(), Seq(300));
        store.purge(&lobby("a"), Seq(0), Seq(10)).await.unwrap();
        assert_eq!(store.purged_through(&lobby("a")).await.unwrap(), Seq(300), "it never goes back");
    })
    .await;
}

#[test]
fn an_event_goes_out_with_its_id_and_comes_back() {
    for event in evening() {
        let message = Message::of_event(&event);
        assert_eq!(message.id, format!("{}/{}", event.lobby, event.seq));
        assert_eq!(message.key, format!("lobby.{}", event.change.name()));
        assert_eq!(GameEvent::read(&message.body).unwrap(), GameEvent::of(&event));
    }
    let message = Message::of_event(&finished("a", 5, 1, &["ann", "ben"]));
    let at = 1_790_000_000_005_u64;
    let expected = serde_json::json!({
        "id": "a/5", "v": 1, "kind": "game_finished", "lobby": "a", "seq": 5, "epoch": 1, "at": at, "user": null,
        "data": {"game": 1, "players": ["ann", "ben"]},
    });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&message.body).unwrap(), expected);
    for bad in ["", "{}", "[]", r#"{"v":2,"kind":"reported","lobby":"a","seq":1,"epoch":1,"at":1,"data":{}}"#]
    {
        assert!(GameEvent::read(bad.as_bytes()).is_err(), "{bad}");
    }
    let award = Award { user: user("ann"), achievement: "veteran".to_owned(), at: Millis(5) };
    let message = Message::of_award(&award);
    assert_eq!((message.id.as_str(), message.key.as_str()), ("ann/veteran", "player.achievement_awarded"));
    assert_eq!(crate::read_award(&message.body), Ok(award));
}

#[test]
fn sums_saturate() {
    let mut sum = Statistic { times: i64::MAX, total: i64::MAX, highest: 1 };
    sum.add(Statistic { times: 1, total: 1, highest: 2 });
    assert_eq!(sum, Statistic { times: i64::MAX, total: i64::MAX, highest: 2 });
}
