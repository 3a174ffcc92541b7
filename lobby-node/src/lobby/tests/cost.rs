//! What a lobby's decisions cost, by how many members it has. `just pure` measures it.

use std::hint::black_box;

use criterion::Criterion;

use super::*;

/// A lobby with so many members.
fn crowd(members: usize) -> Table {
    let mut table = Table::new();
    table.rules.limits = Arc::new(Limits { members_per_lobby_max: members + 1, ..Limits::default() });
    table.run("m0 create");
    for member in 1..members {
        assert_eq!(table.run(&format!("m{member} join")), format!("joined:m{member}:player"));
    }
    table
}

fn caller(name: &str) -> Caller {
    Caller {
        session: SessionId::new(&format!("{name}-1")).unwrap(),
        user: user(name),
        name: name.to_uppercase(),
        roles: Vec::new(),
        system: false,
        expects: None,
    }
}

/// Decides, writes the entry of the journal, and applies it: all that an owner does for a durable message but append it.
fn carry_out(table: &mut Table, caller: &Caller, command: &LobbyCommand) {
    let Table { state, epoch, now, rules, .. } = table;
    let Ok(Decision::Change(changes, recorded)) = state.decide(caller, command, true, *now, rules) else {
        panic!("a message changes a lobby")
    };
    let (lobby, mut seq) = (state.lobby.clone(), state.seq);
    let events = changes.into_iter().map(|change| {
        seq = seq.next();
        LobbyEvent { lobby: lobby.clone(), epoch: *epoch, seq, at: *now, change }
    });
    let entry = Entry { events: events.collect(), key: None, recorded, reads: Vec::new() };
    black_box(entry.encode());
    black_box(state.apply_entry(entry));
}

#[test]
#[ignore = "a measurement"]
fn what_decisions_cost() {
    let mut criterion = Criterion::default();
    for members in [10, 1_000, 10_000] {
        let mut table = crowd(members);
        let (member, stranger) = (caller("m1"), caller("stranger"));
        let text = &"one hundred bytes ".repeat(6)[..100];
        let commands = [
            ("an ordered message", &member, said("game", text, Class::Ordered, Recipients::Everyone)),
            ("a durable message", &member, said("chat", text, Class::Durable, Recipients::Everyone)),
            ("a join", &stranger, LobbyCommand::Join(Join::default())),
        ];
        for (name, caller, command) in &commands {
            assert!(table.state.decide(caller, command, true, table.now, &table.rules).is_ok(), "{name}");
            criterion.bench_function(&format!("decide {name}, {members} members"), |bencher| {
                bencher.iter(|| {
                    table.state.decide(caller, black_box(command), true, table.now, &table.rules).is_ok()
                });
            });
        }
        let (_, _, durable) = &commands[1];
        criterion.bench_function(&format!("carry out a durable message, {members} members"), |bencher| {
            bencher.iter(|| carry_out(&mut table, &member, durable));
        });
    }
}
