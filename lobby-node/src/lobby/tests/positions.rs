//! What stays of a lobby: positions in its events, what can be resumed from them, snapshots and the log behind them.

use super::*;

/// Ann at seq 2, chats at 3 and 4 of epoch 1; 5 and 6 of epoch 3; the owner is at epoch 4.
fn moved() -> Table {
    check(
        "ann create -> updated joined:ann:host
         ann chat a -> message
         ann chat b -> message
         ann moves 2
         ann chat c -> message
         ann chat d -> message
         ann moves",
    )
}

#[test]
fn a_position_is_valid_where_its_epoch_fits_the_events_on_both_sides() {
    let table = moved();
    for (epoch, seq, missed) in [
        (1, 1, Some(5)),
        (1, 2, Some(4)),
        (1, 4, Some(2)),
        // Told by a later owner before anything new happened.
        (2, 4, Some(2)),
        (3, 4, Some(2)),
        (3, 5, Some(1)),
        (3, 6, Some(0)),
        (4, 6, Some(0)),
        // Of a life that another owner's events replaced.
        (1, 5, None),
        (2, 5, None),
        (1, 6, None),
        (2, 6, None),
        // Nobody was ever told these.
        (2, 3, None),
        (3, 3, None),
        (4, 4, None),
        (4, 5, None),
        (0, 2, None),
        (5, 6, None),
        (3, 7, None),
        (4, 7, None),
        (u64::MAX, u64::MAX, None),
        (0, 0, None),
        (1, 0, None),
    ] {
        let position = Position { epoch: Epoch(epoch), seq: Seq(seq) };
        let found = table.state.missed_since(position, table.epoch, &table.rules.limits);
        assert_eq!(found, missed, "({epoch}, {seq})");
    }
}

#[test]
fn what_is_forgotten_cannot_be_resumed_and_what_is_not_saved_is_not_forgotten() {
    let mut table = moved();
    let later = table.now.after(Duration::from_secs(601));
    let limits = Arc::clone(&table.rules.limits);
    let missed = |state: &State, epoch, seq| {
        state.missed_since(Position { epoch: Epoch(epoch), seq: Seq(seq) }, Epoch(4), &limits)
    };
    table.state.trim_recent(&limits, Seq(3), later);
    assert_eq!(table.state.recent_floor(), Seq(3));
    assert_eq!(missed(&table.state, 1, 2), None);
    assert_eq!(missed(&table.state, 1, 3), Some(3));
    table.state.trim_recent(&limits, Seq(6), later);
    assert_eq!(table.state.recent_floor(), Seq(6));
    assert_eq!([missed(&table.state, 3, 5), missed(&table.state, 3, 6)], [None, Some(0)]);
    // More events than a resume may bring are a snapshot, though they are in memory.
    for _ in 0..51 {
        assert_eq!(table.run("ann chat x"), "message");
    }
    assert_eq!([missed(&table.state, 3, 6), missed(&table.state, 4, 7)], [None, Some(50)]);
}

#[test]
fn history_and_resume_do_not_reach_behind_a_close() {
    let table = check(
        "ann create -> updated joined:ann:host
         ann chat a -> message
         ann close -> closed
         bob create -> updated joined:bob:host
         bob chat b -> message",
    );
    assert_eq!((table.state.floor, table.state.seq), (Seq(4), Seq(7)));
    let missed = |seq| {
        table.state.missed_since(Position { epoch: Epoch(1), seq: Seq(seq) }, Epoch(1), &table.rules.limits)
    };
    assert_eq!([missed(2), missed(3), missed(4), missed(5)], [None, None, Some(3), Some(2)]);
    let view = table.state.view(&user("bob"), |_| false);
    assert_eq!(view.messages.iter().map(|message| message.seq).collect::<Vec<_>>(), [Seq(7)]);
    assert_eq!(view.members.iter().map(|member| member.user.as_str()).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn a_state_shows_the_own_entry_first_and_the_last_messages() {
    let mut table = check(
        "ann create -> updated joined:ann:host
         bob join -> joined:bob:player
         cat join -> joined:cat:player",
    );
    for number in 0..60 {
        table.run(&format!("ann chat {number}"));
    }
    let view = table.state.view(&user("cat"), |who| *who == user("bob"));
    let seen: Vec<_> = view.members.iter().map(|member| (member.user.as_str(), member.away)).collect();
    assert_eq!(seen, [("cat", false), ("ann", false), ("bob", true)]);
    let texts: Vec<_> = view.messages.iter().map(|message| message.seq.0).collect();
    assert_eq!(texts, (15..=64).collect::<Vec<_>>());
}

#[test]
fn unreadable_bytes_are_an_error() {
    for bytes in [&b""[..], b"\x00", b"\x02\x80", b"\x01\xc1", b"\x01\x80"] {
        assert!(Entry::decode(bytes).is_err() && State::from_snapshot(bytes).is_err(), "{bytes:?}");
    }
}

/// The same events give the same state, whatever part of them came as a snapshot.
#[test]
fn a_snapshot_and_an_overlapping_log_rebuild_the_state() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut table = Table::new();
        // Taken behind that many entries.
        let mut snapshots = Vec::new();
        for _ in 0..random.random_range(1..120) {
            let [who, whom] =
                [(); 2].map(|()| ["ann", "bob", "cat", "dan", "eve"][random.random_range(0..5)]);
            let nonce = random.random_range(0..12);
            let does = match random.random_range(0..36) {
                0..3 => "create closing".to_owned(),
                3..5 => "create 3".to_owned(),
                5 => "watch".to_owned(),
                6..8 => "leave".to_owned(),
                8 => format!("close #{nonce}"),
                9 => "wait 40".to_owned(),
                10 => "moves".to_owned(),
                11 if table.state.member(&user(who)).is_some() => "times_out".to_owned(),
                12 => format!("kick {whom}"),
                13 => format!("ban {whom} {}", random.random_range(1..100)),
                14 => format!("unban {whom}"),
                15 => format!("mute {whom}"),
                16 => format!("unmute {whom}"),
                17 => format!("transfer {whom}"),
                18 => format!("moderator {whom}"),
                19 => format!("start #{nonce}"),
                20 => "finish".to_owned(),
                21 => "ready".to_owned(),
                22 => format!("edit {} new", random.random_range(1..20)),
                23 => format!("delete {}", random.random_range(1..20)),
                24 => "set {\"slow_mode_s\":3}".to_owned(),
                25 => format!("invite s{nonce} 2 30"),
                26 => format!("invited s{nonce}"),
                27 => "lock h".to_owned(),
                28 => "unlock".to_owned(),
                _ => format!("chat hi #{nonce}"),
            };
            table.run(&format!("{who} {does}"));
            if random.random_bool(0.1) {
                snapshots.push((table.log.len(), table.state.snapshot()));
            }
        }
        for (behind, bytes) in snapshots {
            let mut rebuilt = State::from_snapshot(&bytes).unwrap();
            let overlap = random.random_range(0..=behind);
            for entry in &table.log[overlap..] {
                rebuilt.apply_entry(entry.clone());
            }
            assert!(rebuilt.snapshot() == table.state.snapshot(), "seed {seed}, behind {behind} entries");
            let floor = rebuilt.recent_floor();
            let recent = |state: &State| -> Vec<_> {
                state.events_after(floor).into_iter().flatten().cloned().collect()
            };
            assert_eq!(recent(&rebuilt), recent(&table.state), "seed {seed}");
        }
    }
}
