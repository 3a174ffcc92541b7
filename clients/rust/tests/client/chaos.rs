//! A small honest lobby behind connections that break at every point: each message comes to be once, and the
//! client sees every event once and in order.

use std::collections::HashMap;
use std::time::Duration;

use mlms_client::protocol::command::Join;
use mlms_client::protocol::{Answer, Command, Event, LobbyCommand, Nonce, Request, Seq};
use mlms_client::{Client, Incoming, Options};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::script::*;

const MESSAGES: u64 = 60;

#[derive(Default)]
struct Lounge {
    head: u64,
    known: HashMap<Nonce, u64>,
}

impl Lounge {
    fn send(&mut self, nonce: &Nonce) -> (u64, bool) {
        if let Some(seq) = self.known.get(nonce) {
            return (*seq, true);
        }
        self.head += 1;
        self.known.insert(nonce.clone(), self.head);
        (self.head, false)
    }
}

/// Serves one connection until the dice end it.
async fn serve(peer: &mut Peer, lounge: &mut Lounge, random: &mut StdRng) {
    let lobby = lobby("lounge");
    let mut attached = false;
    loop {
        if random.random_bool(0.1) {
            return;
        }
        let Some(request) = peer.next().await else { return };
        match &request.command {
            Command::Lobby(_, LobbyCommand::Join(_)) => {
                peer.answer(&request, Answer::Joined(joined(&lobby, lounge.head))).await;
                attached = true;
            }
            Command::Resume(points) => {
                let from = points[0].seq.0;
                peer.answer(&request, Answer::Resumed(vec![Ok(resumed(&lobby, from))])).await;
                for seq in from + 1..=lounge.head {
                    if random.random_bool(0.05) {
                        return;
                    }
                    peer.chat(&lobby, seq).await;
                }
                peer.event(&Event::CaughtUp { lobby: lobby.clone(), seq: Seq(lounge.head) }).await;
                attached = true;
            }
            Command::Lobby(_, LobbyCommand::Send(_)) => {
                assert!(attached, "a command went before its lobby was resumed");
                say(peer, lounge, random, &request).await;
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn say(peer: &mut Peer, lounge: &mut Lounge, random: &mut StdRng, request: &Request) {
    let (seq, dup) = lounge.send(request.nonce.as_ref().unwrap());
    let lobby = lobby("lounge");
    // Now and then the event is lost, told twice, or told after the answer; or the answer is lost.
    let (event_first, lose_answer) = (random.random_bool(0.5), random.random_bool(0.1));
    if event_first && !dup && !random.random_bool(0.1) {
        peer.chat(&lobby, seq).await;
    }
    if !lose_answer {
        peer.answer(request, sent(seq, dup)).await;
    }
    if !dup && !random.random_bool(0.1) {
        peer.chat(&lobby, seq).await;
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut server, options) = Server::new();
    let options = Options { seed: Some(seed), backoff_max: Duration::from_secs(1), ..options };
    let (client, mut events) = Client::connect(options).unwrap();
    let talking = async {
        let lounge = lobby("lounge");
        client.join(&lounge, Join::default()).await.unwrap();
        let mut last = 0;
        for number in 0..MESSAGES {
            // A lost answer on a living connection is the caller's to repeat, with the same nonce.
            let nonce = Nonce::new(&format!("n{number}")).unwrap();
            let place = loop {
                let message = mlms_client::Message::chat("hello").nonce(nonce.clone());
                match client.send(&lounge, message).await {
                    Ok(place) => break place.unwrap(),
                    Err(mlms_client::Error::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            assert!(place.seq.0 > last, "{} after {last}", place.seq);
            last = place.seq.0;
        }
        client.close().await;
    };
    let mut lounge = Lounge::default();
    let serving = async {
        loop {
            let mut peer = server.accept().await;
            serve(&mut peer, &mut lounge, &mut random).await;
        }
    };
    let listening = async {
        let mut seen = Vec::new();
        while let Some(incoming) = events.recv().await {
            match incoming {
                Incoming::Event(Event::Lobby(event)) => seen.push(event.seq.0),
                Incoming::Ended { .. } => panic!("the lobby did not end"),
                _ => {}
            }
        }
        seen
    };
    let ((), seen) = tokio::select! {
        () = serving => unreachable!("it serves for ever"),
        ended = async { tokio::join!(talking, listening) } => ended,
    };
    assert_eq!(lounge.head, MESSAGES, "each message once");
    // The tail may be cut off by the close; what was seen has no gap and no duplicate.
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn every_message_once_and_every_event_in_order_over_broken_connections() {
    for seed in 0..200 {
        let outcome = tokio::spawn(run(seed)).await;
        assert!(outcome.is_ok(), "seed {seed}: {outcome:?}");
    }
}
