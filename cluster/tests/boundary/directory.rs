//! Leases, claims, sessions and the list of lobbies, alike on both.

use std::time::Duration;

use mlms_cluster::directory::{Claim, LEASE, RENEWAL, Renewal, SessionRecord};
use mlms_cluster::view::{LobbySummary, NodeState};
use mlms_protocol::lobby::Visibility;
use mlms_protocol::{Incarnation, SessionId, Shard, UserId};
use tokio::time::Instant;

use crate::stage::{PATIENCE, Stage, connect, lobby, name, node, on_both, own, record, until};

on_both!(
    a_newer_run_supersedes_the_older,
    a_run_is_known_beyond_its_end,
    a_lease_ends_and_the_next_beat_lists_the_node_again,
    of_many_claims_of_one_shard_one_wins,
    a_claim_that_expects_something_else_learns_what_stands_there,
    an_owner_gives_its_shard_away,
    a_restarted_node_takes_what_it_owned_at_once,
    the_oldest_sessions_beyond_the_limit_are_given_back,
    sessions_of_a_former_run_do_not_count,
    the_list_of_lobbies_is_paged_and_shows_public_ones,
    lobbies_vanish_with_their_node,
    changes_are_told_without_asking,
);

async fn a_newer_run_supersedes_the_older(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    assert_eq!(a.renew(&node("one", 9)).await, Ok(Renewal::Held));
    assert_eq!(a.renew(&node("one", 9)).await, Ok(Renewal::Held));
    assert_eq!(b.renew(&node("one", 10)).await, Ok(Renewal::Held));
    assert_eq!(a.renew(&node("one", 9)).await, Ok(Renewal::Superseded));
    a.retire(&name("one"), Incarnation(9)).await.unwrap();
    let view = a.refresh().await.unwrap();
    assert_eq!(view.nodes.values().collect::<Vec<_>>(), [&node("one", 10)]);
    b.retire(&name("one"), Incarnation(10)).await.unwrap();
    assert!(a.refresh().await.unwrap().nodes.is_empty());
}

async fn a_run_is_known_beyond_its_end(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    assert_eq!(b.former_run(&name("one")).await, Ok(None));
    a.renew(&node("one", 9)).await.unwrap();
    a.renew(&node("two", 12)).await.unwrap();
    assert_eq!(b.former_run(&name("one")).await, Ok(Some(Incarnation(9))));
    // It leaves, and a lease of its own could be had by an older run once what is left of it has gone too.
    a.retire(&name("one"), Incarnation(9)).await.unwrap();
    assert_eq!(b.former_run(&name("one")).await, Ok(Some(Incarnation(9))));
    until(b, |view| view.nodes.is_empty()).await;
    for (node, run) in [("one", 9), ("two", 12)] {
        assert_eq!(b.former_run(&name(node)).await, Ok(Some(Incarnation(run))), "{node}");
    }
}

async fn a_lease_ends_and_the_next_beat_lists_the_node_again(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    for _ in 0..2 {
        let began = Instant::now();
        a.renew(&node("one", 1)).await.unwrap();
        until(b, |view| view.nodes.contains_key("one")).await;
        until(b, |view| view.nodes.is_empty()).await;
        assert!(began.elapsed() >= LEASE, "{:?}", began.elapsed());
    }
}

async fn of_many_claims_of_one_shard_one_wins(stage: Stage) {
    let shard = Shard(17);
    let mut expected = None;
    for epoch in 1..=5 {
        // All of one process, so that each may give away what another of them owns.
        let names: Vec<String> = (0..8).map(|number| format!("node-{number}")).collect();
        for name in &names {
            stage.a.directory.renew(&node(name, 1)).await.unwrap();
        }
        let claims = names.iter().map(|name| {
            let (directory, expected) = (&stage.a.directory, expected.as_ref());
            async move {
                let new = record(name, 1, epoch);
                (directory.claim(shard, expected, &new).await.unwrap(), new)
            }
        });
        let outcomes = futures_util::future::join_all(claims).await;
        let won: Vec<_> = outcomes.iter().filter(|(claim, _)| *claim == Claim::Won).collect();
        assert_eq!(won.len(), 1, "{outcomes:?}");
        let winner = won[0].1.clone();
        for (claim, new) in &outcomes {
            assert!(*new == winner || *claim == Claim::Lost(Some(winner.clone())), "{claim:?}");
        }
        let view = stage.b.directory.refresh().await.unwrap();
        assert_eq!(view.record(shard), Some(&winner));
        expected = Some(winner);
    }
}

async fn a_claim_that_expects_something_else_learns_what_stands_there(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    own(&stage.a, Shard(3), "one").await;
    let standing = Some(record("one", 1, 1));
    assert_eq!(b.claim(Shard(3), None, &record("two", 1, 1)).await, Ok(Claim::Lost(standing.clone())));
    let old = record("one", 1, 7);
    let lost = a.claim(Shard(3), Some(&old), &record("one", 1, 8)).await;
    assert_eq!(lost, Ok(Claim::Lost(standing)));
    assert_eq!(
        b.claim(Shard(511), Some(&record("two", 1, 1)), &record("two", 1, 2)).await,
        Ok(Claim::Lost(None))
    );
}

async fn an_owner_gives_its_shard_away(stage: Stage) {
    stage.a.directory.renew(&node("one", 1)).await.unwrap();
    stage.b.directory.renew(&node("two", 1)).await.unwrap();
    own(&stage.a, Shard(4), "one").await;
    let new = record("two", 1, 2);
    let given = stage.a.directory.claim(Shard(4), Some(&record("one", 1, 1)), &new).await;
    assert_eq!(given, Ok(Claim::Won));
    until(&stage.b.directory, |view| view.owner(Shard(4)).is_some_and(|owner| owner.name == name("two")))
        .await;
}

async fn a_restarted_node_takes_what_it_owned_at_once(stage: Stage) {
    stage.a.directory.renew(&node("one", 1)).await.unwrap();
    own(&stage.a, Shard(5), "one").await;
    stage.b.directory.renew(&node("one", 2)).await.unwrap();
    let claim = stage.b.directory.claim(Shard(5), Some(&record("one", 1, 1)), &record("one", 2, 2)).await;
    assert_eq!(claim, Ok(Claim::Won));
}

fn session(number: usize, node: &str, incarnation: u64) -> SessionRecord {
    let session = SessionId::new(&format!("session-{number}")).unwrap();
    SessionRecord { session, node: name(node), incarnation: Incarnation(incarnation) }
}

async fn the_oldest_sessions_beyond_the_limit_are_given_back(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    let user = UserId::new("Ännchen {x} 🦀").unwrap();
    a.renew(&node("one", 1)).await.unwrap();
    b.renew(&node("two", 1)).await.unwrap();
    for directory in [a, b] {
        until(directory, |view| view.nodes.len() == 2).await;
    }
    assert_eq!(a.add_session(&user, session(1, "one", 1), 2).await, Ok(vec![]));
    assert_eq!(b.add_session(&user, session(2, "two", 1), 2).await, Ok(vec![]));
    assert_eq!(b.add_session(&user, session(3, "two", 1), 2).await, Ok(vec![session(1, "one", 1)]));
    b.remove_session(&user, &session(2, "two", 1).session).await.unwrap();
    assert_eq!(a.add_session(&user, session(4, "one", 1), 2).await, Ok(vec![]));
    assert_eq!(a.add_session(&user, session(5, "one", 1), 0).await, Ok(vec![]));
    let given = a.add_session(&user, session(6, "one", 1), 1).await.unwrap();
    assert_eq!(given, [session(3, "two", 1), session(4, "one", 1), session(5, "one", 1)]);
}

async fn sessions_of_a_former_run_do_not_count(stage: Stage) {
    let directory = &stage.a.directory;
    let user = UserId::new("ann").unwrap();
    directory.renew(&node("one", 1)).await.unwrap();
    until(directory, |view| view.nodes.len() == 1).await;
    assert_eq!(directory.add_session(&user, session(1, "one", 1), 1).await, Ok(vec![]));
    directory.renew(&node("one", 2)).await.unwrap();
    until(directory, |view| view.nodes["one"].incarnation == Incarnation(2)).await;
    assert_eq!(directory.add_session(&user, session(2, "one", 2), 1).await, Ok(vec![]));
    assert_eq!(directory.add_session(&user, session(3, "one", 2), 1).await, Ok(vec![session(2, "one", 2)]));
}

fn summary(id: &str, members: u32, visibility: Visibility) -> LobbySummary {
    LobbySummary {
        lobby: lobby(id),
        name: format!("{id} \"ü\""),
        members,
        capacity: 9,
        visibility,
        metadata: serde_json::Map::from_iter([("map".to_owned(), "ice".into())]),
        locked: false,
        invite_only: false,
        joinable: true,
    }
}

async fn the_list_of_lobbies_is_paged_and_shows_public_ones(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    for (directory, name) in [(a, "one"), (b, "two")] {
        directory.renew(&node(name, 1)).await.unwrap();
    }
    for directory in [a, b] {
        until(directory, |view| view.nodes.len() == 2).await;
    }
    let ids: Vec<String> = (0..500).map(|number| format!("lobby-{number:03}")).collect();
    let listed = |ids: &[String]| ids.iter().map(|id| summary(id, 1, Visibility::Public)).collect();
    a.publish_lobbies(&name("one"), listed(&ids[..250]), vec![]).await.unwrap();
    b.publish_lobbies(&name("two"), listed(&ids[250..]), vec![]).await.unwrap();
    // An id that is the beginning of others comes before them.
    a.publish_lobbies(&name("one"), listed(&["lobby".to_owned()]), vec![]).await.unwrap();
    a.publish_lobbies(
        &name("one"),
        vec![summary("lobby-000", 2, Visibility::Unlisted)],
        vec![lobby("lobby-001")],
    )
    .await
    .unwrap();
    a.publish_lobbies(&name("one"), vec![summary("lobby-002", 5, Visibility::Public)], vec![]).await.unwrap();
    let mut wanted: Vec<_> = ["lobby".to_owned()].iter().chain(&ids[2..]).map(|id| lobby(id)).collect();
    wanted.sort();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = b.lobbies(after.as_ref(), 70).await.unwrap();
        assert!(page.len() <= 70);
        after = page.last().map(|summary| summary.lobby.clone()).or(after);
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen.iter().map(|summary| summary.lobby.clone()).collect::<Vec<_>>(), wanted);
    assert_eq!(seen[1], summary("lobby-002", 5, Visibility::Public));
}

async fn lobbies_vanish_with_their_node(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    a.renew(&node("one", 1)).await.unwrap();
    a.publish_lobbies(&name("one"), vec![summary("arena", 1, Visibility::Public)], vec![]).await.unwrap();
    until(b, |view| view.nodes.len() == 1).await;
    assert_eq!(b.lobbies(None, 10).await.unwrap().len(), 1);
    a.retire(&name("one"), Incarnation(1)).await.unwrap();
    until(b, |view| view.nodes.is_empty()).await;
    assert_eq!(b.lobbies(None, 10).await, Ok(vec![]));
}

async fn changes_are_told_without_asking(stage: Stage) {
    let (a, b) = (&stage.a.directory, &stage.b.directory);
    let mut watch = b.watch();
    let wait = |watch: &mut tokio::sync::watch::Receiver<std::sync::Arc<mlms_cluster::View>>| {
        let mut watch = watch.clone();
        async move {
            tokio::time::timeout(PATIENCE, watch.changed()).await.unwrap().unwrap();
        }
    };
    watch.mark_unchanged();
    let joined = wait(&mut watch);
    a.renew(&node("one", 1)).await.unwrap();
    joined.await;
    while !b.view().nodes.contains_key("one") {
        wait(&mut watch).await;
        watch.mark_unchanged();
    }
    own(&stage.a, Shard(8), "one").await;
    while b.view().owner(Shard(8)).is_none() {
        wait(&mut watch).await;
        watch.mark_unchanged();
    }
    let draining = mlms_cluster::view::NodeRecord { state: NodeState::Draining, ..node("one", 1) };
    a.renew(&draining).await.unwrap();
    while b.view().nodes["one"].state != NodeState::Draining {
        wait(&mut watch).await;
        watch.mark_unchanged();
    }
}

#[tokio::test]
async fn a_shard_passes_from_the_dead_but_not_from_the_living() {
    let stage = Stage::redis().await;
    let (shard, old, new) = (Shard(6), record("one", 1, 1), record("two", 1, 2));
    // Not later than the beat: however slow the machine, the lease ends at least its length after this.
    let last_beat = Instant::now();
    stage.a.directory.renew(&node("one", 1)).await.unwrap();
    own(&stage.a, shard, "one").await;
    let claim = stage.b.directory.claim(shard, Some(&old), &new).await;
    assert_eq!(claim, Ok(Claim::Lost(Some(old.clone()))));
    let mut claims = Vec::new();
    let inherit = async {
        let mut beat = tokio::time::interval(RENEWAL);
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    stage.b.directory.renew(&node("two", 1)).await.unwrap();
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    let claim = stage.b.directory.claim(shard, Some(&old), &new).await;
                    if claim == Ok(Claim::Won) {
                        return last_beat.elapsed();
                    }
                    claims.push(claim);
                }
            }
        }
    };
    let took = tokio::time::timeout(PATIENCE, inherit).await.unwrap();
    assert!(took + Duration::from_millis(200) >= LEASE, "claimed from the living after {took:?}");
    assert!(claims.contains(&Ok(Claim::Lost(Some(old)))));
    println!("a dead node's shard was claimed {took:?} after its last beat");
}

#[tokio::test]
async fn a_node_without_a_lease_of_its_own_inherits_nothing() {
    let stage = Stage::redis().await;
    own(&stage.a, Shard(6), "one").await;
    let third = connect(stage.server.as_ref().unwrap()).await;
    let began = Instant::now();
    while began.elapsed() < LEASE + RENEWAL {
        let claim = third.directory.claim(Shard(6), Some(&record("one", 1, 1)), &record("two", 1, 2)).await;
        assert!(claim.is_err(), "{claim:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    third.end().await;
}
