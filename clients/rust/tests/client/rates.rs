//! The client keeps within the server's rates, and its token fresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use mlms_client::protocol::{Answer, Command, Limits, LobbyCommand, Millis};
use mlms_client::{Client, State, TokenSource};
use tokio::time::Instant;

use crate::script::*;

/// A token that ends so long after the server's time, which is 1.
fn token(number: u32, ends_s: u32) -> String {
    let claims = format!("{{\"sub\":\"ann\",\"exp\":{ends_s},\"number\":{number}}}");
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test(start_paused = true)]
async fn what_gathered_leaves_at_the_servers_rate_and_in_order() {
    let (mut server, options) = Server::new();
    server.limits = Limits {
        commands_per_s: 10,
        commands_burst: 20,
        chats_per_s: 5,
        chats_burst: 5,
        ..Limits::default()
    };
    let (_server, mut peer, client, _events) = in_the_lounge_of(server, options).await;
    let lounge = lobby("lounge");
    let began = Instant::now();
    let serve = tokio::spawn(async move {
        let mut texts = Vec::new();
        for seq in 11..41 {
            let request = peer.command().await;
            if let Command::Lobby(_, LobbyCommand::Send(send)) = &request.command {
                texts.push((send.body.as_text().unwrap(), began.elapsed()));
            }
            peer.answer(&request, sent(seq, false)).await;
        }
        (texts, peer)
    });
    let numbers: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    let sends = join_all(numbers.iter().map(|text| client.chat(&lounge, text))).await;
    assert!(sends.iter().all(Result::is_ok));
    let (texts, _peer) = serve.await.unwrap();
    assert!(texts.iter().map(|(text, _)| text).eq(&numbers), "{texts:?}");
    assert!(texts[4].1 < Duration::from_secs(1), "the burst is not held back");
    assert!(texts[29].1 >= Duration::from_secs(5), "25 more at 5 a second: {:?}", texts[29].1);
}

#[tokio::test(start_paused = true)]
async fn the_server_gets_a_new_token_before_the_old_one_ends() {
    let (mut server, mut options) = Server::new();
    let asked = Arc::new(AtomicU32::new(0));
    options.token = TokenSource::provider({
        let asked = asked.clone();
        move || {
            let number = asked.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                if number == 3 { Err("away for a moment".into()) } else { Ok(token(number, 600 * number)) }
            }
        }
    });
    let (client, _events) = Client::connect(options).unwrap();
    let mut peer = server.accept().await;
    assert_eq!(peer.token, token(1, 600));
    let began = Instant::now();
    let request = loop {
        tokio::select! {
            request = peer.command() => break request,
            () = tokio::time::sleep(Duration::from_secs(20)) => peer.ping().await,
        }
    };
    let Command::Auth { token: fresh } = &request.command else { panic!("{request:?}") };
    assert_eq!(*fresh, token(2, 1_200));
    assert!((500..=541).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    peer.answer(&request, Answer::Auth { expires_at: Millis(1_200_000) }).await;
    // The provider fails the next time: the session ends with its token, and comes back with another.
    let ends = began + Duration::from_secs(1_200);
    while Instant::now() < ends {
        tokio::time::sleep(Duration::from_secs(20)).await;
        peer.ping().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    assert!(matches!(*client.state().borrow(), State::Open { .. }));
    peer.close(4005).await;
    assert_eq!(server.accept().await.token, token(4, 2_400));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_says_no_end_or_has_no_successor_is_left_alone() {
    for fixed in ["opaque".to_owned(), token(1, 2)] {
        let (mut server, mut options) = Server::new();
        options.token = TokenSource::fixed(fixed);
        let (_client, _events) = Client::connect(options).unwrap();
        let mut peer = server.accept().await;
        for _ in 0..10 {
            tokio::select! {
                request = peer.command() => panic!("{request:?}"),
                () = tokio::time::sleep(Duration::from_secs(20)) => peer.ping().await,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeat_beyond_the_nonces_life_is_not_sent() {
    let (server, mut options) = Server::new();
    options.command_timeout = Duration::from_secs(3_600);
    let (mut server, mut peer, client, _events) = in_the_lounge_of(server, options).await;
    let lounge = lobby("lounge");
    let say = tokio::spawn(async move { (client.chat(&lounge, "once").await, client) });
    let first = peer.command().await;
    assert!(first.nonce.is_some());
    drop(peer);
    // The service is away for longer than it would know the nonce.
    let until = Instant::now() + Duration::from_secs(280);
    while Instant::now() < until {
        server.hang_up().await;
    }
    let mut peer = server.accept().await;
    peer.resume_all().await;
    let (outcome, _client) = say.await.unwrap();
    assert_eq!(outcome, Err(mlms_client::Error::TimedOut));
}
