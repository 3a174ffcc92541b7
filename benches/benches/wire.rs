//! What the pure parts of the wire cost, in both encodings: a command that is read, an event that is written and framed,
//! and the order of nodes for a lobby's shard. `just pure` runs it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mlms_protocol::placement::{nodes_for_shard, shard_of};
use mlms_protocol::{
    Body, Change, Encoding, Epoch, Event, Kind, LobbyEvent, LobbyId, Millis, NodeName, Request, Seq, UserId,
};

const COMMAND: &[u8] = br#"{"id":7,"op":"send","lobby":"lounge-17","kind":"game","class":"ordered","body":"move 3 4, one hundred bytes as the benchmarks of whole processes have them, no more and no less than that"}"#;

const ENCODINGS: [(Encoding, &str); 2] = [(Encoding::Json, "json"), (Encoding::Msgpack, "msgpack")];

fn event() -> Event {
    Event::Lobby(LobbyEvent {
        lobby: LobbyId::new("lounge-17").expect("it is an id"),
        epoch: Epoch(3),
        seq: Seq(4_711),
        at: Millis(1_790_000_000_000),
        change: Change::Message {
            kind: Kind::new("chat").expect("it is a kind"),
            from: Some(UserId::new("player-12").expect("it is an id")),
            body: Body::text(&"one hundred bytes ".repeat(6)[..100]),
            nonce: None,
            key: None,
        },
    })
}

fn frames(criterion: &mut Criterion) {
    let request = Request::decode(Encoding::Json, COMMAND).expect("it is a command");
    let event = event();
    for (encoding, name) in ENCODINGS {
        let command = request.encode(encoding);
        criterion.bench_function(&format!("read a send, {name}"), |bencher| {
            bencher.iter(|| Request::decode(encoding, black_box(&command)));
        });
        criterion.bench_function(&format!("write and frame a message, {name}"), |bencher| {
            bencher.iter(|| encoding.websocket_frame(&black_box(&event).encode(encoding)));
        });
    }
}

fn placement(criterion: &mut Criterion) {
    let lobby = LobbyId::new("lounge-17").expect("it is an id");
    let nodes: Vec<NodeName> =
        (0..20).map(|number| NodeName::new(&format!("node-{number}")).expect("it is a name")).collect();
    criterion.bench_function("rank 20 nodes for a lobby", |bencher| {
        bencher.iter(|| nodes_for_shard(shard_of(black_box(&lobby)), &nodes).len());
    });
}

criterion_group!(wire, frames, placement);
criterion_main!(wire);
