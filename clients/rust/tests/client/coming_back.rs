//! Lost connections: when the client comes back, with which token, and what it repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::SinkExt as _;
use mlms_client::protocol::{
    Answer, Body, Command, ErrorCode, Event, Kind, LobbyCommand, Millis, Nonce, Reconnect, Refusal, Request,
    Seq,
};
use mlms_client::{Client, ClosedReason, Error, Message, State, TokenSource};
use tokio::time::Instant;

use crate::script::*;

fn nonces(requests: &[Request]) -> Vec<Nonce> {
    requests.iter().map(|request| request.nonce.clone().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn unanswered_commands_are_repeated_in_order_with_their_nonce_after_the_resume() {
    let (mut server, mut peer, client, mut events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    let say = |text: &'static str| {
        let (client, lounge) = (client.clone(), lounge.clone());
        tokio::spawn(async move { client.chat(&lounge, text).await })
    };
    let mut sending = Vec::new();
    let mut before = Vec::new();
    for text in ["one", "two", "three"] {
        sending.push(say(text));
        before.push(peer.command().await);
    }
    peer.answer(&before[0], sent(11, false)).await;
    peer.chat(&lounge, 11).await;
    assert_eq!(next_seq(&mut events).await, 11);
    drop(peer);
    until(&client, |state| matches!(state, State::Waiting { .. })).await;
    sending.push(say("four"));
    let mut peer = server.accept().await;
    let (request, points) = peer.resume().await;
    assert_eq!(points[0].seq, Seq(11));
    peer.answer(&request, Answer::Resumed(vec![Ok(resumed(&lounge, 11))])).await;
    let mut after = Vec::new();
    for seq in 12..=14 {
        let request = peer.command().await;
        peer.answer(&request, sent(seq, seq == 12)).await;
        after.push(request);
    }
    assert_eq!(nonces(&after)[..2], nonces(&before)[1..]);
    let mut places = Vec::new();
    for sending in sending {
        let place = sending.await.unwrap().unwrap();
        places.push((place.seq.0, place.dup));
    }
    assert_eq!(places, [(11, false), (12, true), (13, false), (14, false)]);
}

#[tokio::test(start_paused = true)]
async fn what_its_caller_gave_up_is_not_repeated() {
    let (mut server, mut peer, client, _events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    tokio::select! {
        _ = client.chat(&lounge, "never mind") => panic!("nobody answered"),
        _ = peer.command() => {}
    }
    drop(peer);
    let mut peer = server.accept().await;
    peer.resume_all().await;
    let (pong, ()) = tokio::join!(client.ping(), async {
        let request = peer.command().await;
        assert_eq!(request.command, Command::Ping);
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    });
    assert_eq!(pong, Ok(Millis(1)));
}

#[tokio::test(start_paused = true)]
async fn unsequenced_messages_are_not_repeated() {
    let (_server, mut peer, client, _events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    let dice = || Message::new(Kind::new("game").unwrap(), Body::json(&6.into()));
    let (outcome, ()) = tokio::join!(client.send(&lounge, dice()), async {
        peer.command().await;
        drop(peer);
    });
    assert_eq!(outcome, Err(Error::Lost));
    assert_eq!(client.send(&lounge, dice()).await, Err(Error::NotConnected));
    assert_eq!(client.typing(&lounge).await, Err(Error::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn a_lobby_that_is_being_left_is_left_not_resumed() {
    let (mut server, mut peer, client, _events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    let (outcome, ()) = tokio::join!(client.leave(&lounge), async {
        let first = peer.command().await;
        drop(peer);
        let mut peer = server.accept().await;
        let second = peer.command().await;
        assert_eq!(second.command, Command::Lobby(lounge.clone(), LobbyCommand::Leave));
        assert_eq!(second.nonce, first.nonce);
        // The first one did it, and this session never was in.
        peer.refuse(&second, Refusal::new(ErrorCode::NotMember, "not a member")).await;
    });
    assert_eq!(outcome, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn commands_wait_for_the_first_connection() {
    let (mut server, options) = Server::new();
    let (client, _events) = Client::connect(options).unwrap();
    let (pong, _peer) = tokio::join!(client.ping(), async {
        server.hang_up().await;
        let mut peer = server.accept().await;
        let request = peer.command().await;
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
        peer
    });
    assert_eq!(pong, Ok(Millis(1)));
    client.opened().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn close_codes_say_whether_to_come_back() {
    for code in [1000, 1001, 1011, 1012, 4000, 4001, 4002, 4003, 4004, 4006, 4008, 4499] {
        let (mut server, peer, client, _events) = in_the_lounge().await;
        peer.close(code).await;
        server.accept().await.resume_all().await;
        assert!(matches!(*client.state().borrow(), State::Open { .. }), "{code}");
    }
    for code in [1002, 1003, 1007, 1008, 1009, 4500, 4501, 4502, 4504, 4505, 4506, 4507, 4999] {
        let (mut server, peer, client, mut events) = in_the_lounge().await;
        peer.close(code).await;
        let reason = ClosedReason::Ended { code, reason: "because".to_owned() };
        until(&client, |state| *state == State::Closed { reason: reason.clone() }).await;
        assert_eq!(client.ping().await, Err(Error::Closed(reason)));
        assert_eq!(events.recv().await, None);
        assert!(server.has_no_visitor());
    }
}

fn bye(code: u16, reconnect: Reconnect, window_ms: Option<(u64, u64)>) -> Event {
    Event::Bye { code, reason: "maintenance".to_owned(), reconnect, window_ms }
}

#[tokio::test(start_paused = true)]
async fn a_bye_is_obeyed_whatever_the_close_code() {
    for seed in 0..20 {
        let (server, mut options) = Server::new();
        options.seed = Some(seed);
        let (mut server, mut peer, client, _events) = in_the_lounge_of(server, options).await;
        peer.event(&bye(4000, Reconnect::Window, Some((5_000, 9_000)))).await;
        peer.close(4000).await;
        let left = Instant::now();
        server.accept().await.resume_all().await;
        let away = left.elapsed().as_millis();
        assert!((5_000..=9_010).contains(&away), "{away} ms");
        client.close().await;
    }
    let (mut server, mut peer, client, _events) = in_the_lounge().await;
    peer.event(&bye(4000, Reconnect::Now, None)).await;
    drop(peer);
    let left = Instant::now();
    let mut peer = server.accept().await;
    assert!(left.elapsed().as_millis() <= 510);
    peer.event(&bye(4000, Reconnect::Never, None)).await;
    peer.close(4000).await;
    let reason = ClosedReason::Ended { code: 4000, reason: "maintenance".to_owned() };
    until(&client, |state| *state == State::Closed { reason: reason.clone() }).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_bye_commands_wait_for_the_next_connection() {
    let (mut server, mut peer, client, mut events) = in_the_lounge().await;
    peer.event(&bye(4000, Reconnect::Now, None)).await;
    peer.chat(&lobby("lounge"), 11).await;
    assert_eq!(next_seq(&mut events).await, 11);
    let (pong, ()) = tokio::join!(client.ping(), async {
        // A server that forgets to close is left after a while.
        assert_eq!(peer.next().await, None);
        let mut peer = server.accept().await;
        assert_eq!(peer.resume_all().await[0].seq, Seq(11));
        let request = peer.command().await;
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    });
    assert_eq!(pong, Ok(Millis(1)));
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_was_cut_off_together_does_not_come_back_together() {
    let mut away = Vec::new();
    for seed in 0..50 {
        let (server, mut options) = Server::new();
        options.seed = Some(seed);
        let (mut server, peer, _client, _events) = in_the_lounge_of(server, options).await;
        drop(peer);
        let left = Instant::now();
        server.accept().await;
        away.push(left.elapsed().as_millis());
    }
    assert!(away.iter().all(|ms| *ms <= 510), "{away:?}");
    let early = away.iter().filter(|ms| **ms < 250).count();
    assert!((10..=40).contains(&early), "{away:?}");
}

#[tokio::test(start_paused = true)]
async fn retries_that_fail_grow_apart_and_a_stable_session_starts_anew() {
    let (mut server, peer, client, _events) = in_the_lounge().await;
    drop(peer);
    let began = Instant::now();
    for _ in 0..12 {
        server.hang_up().await;
    }
    let failing = began.elapsed();
    assert!(failing > Duration::from_secs(20) && failing < Duration::from_secs(200), "{failing:?}");
    let mut peer = server.accept().await;
    peer.resume_all().await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        peer.ping().await;
    }
    drop(peer);
    let left = Instant::now();
    server.accept().await;
    assert!(left.elapsed().as_millis() <= 510);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_and_pings_keep_it() {
    let (mut server, mut peer, client, _events) = in_the_lounge().await;
    for _ in 0..20 {
        tokio::time::sleep(HEARTBEAT).await;
        peer.ping().await;
    }
    let silent = Instant::now();
    let (_kept_open, mut second) = (peer, server.accept().await);
    let waited = silent.elapsed();
    assert!(waited >= 2 * HEARTBEAT && waited < 2 * HEARTBEAT + Duration::from_secs(1), "{waited:?}");
    second.resume_all().await;
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_welcomes_is_left() {
    let (mut server, options) = Server::new();
    let (_client, _events) = Client::connect(options).unwrap();
    let _mute = server.upgrade().await;
    server.accept().await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_cannot_be_understood_end_the_connection() {
    use tokio_tungstenite::tungstenite::Message as Frame;
    for frame in [
        Frame::text("[]"),
        Frame::text("{\"ev\":\"typing\"}"),
        Frame::text("{\"id\":1}"),
        Frame::binary(vec![0x80]),
        Frame::text("x".repeat(5 << 20)),
    ] {
        let (server, mut options) = Server::with_pipes_of(8 << 20);
        options.message_bytes_max = 4 << 20;
        let (mut server, mut peer, _client, _events) = in_the_lounge_of(server, options).await;
        peer.socket.send(frame).await.unwrap();
        assert_eq!(peer.next().await, None);
        server.accept().await.resume_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn http_refusals_say_whether_to_come_again() {
    let (mut server, options) = Server::new();
    let (client, _events) = Client::connect(options).unwrap();
    server.refuse("503 Service Unavailable", "retry-after: 30\r\n").await;
    let refused = Instant::now();
    server.refuse("429 Too Many Requests", "").await;
    assert!(refused.elapsed() >= Duration::from_secs(30));
    server.refuse("502 Bad Gateway", "").await;
    let _peer = server.accept().await;
    client.opened().await.unwrap();
    for (status, number) in [("400 Bad Request", 400), ("403 Forbidden", 403), ("404 Not Found", 404)] {
        let (mut server, options) = Server::new();
        let (client, _events) = Client::connect(options).unwrap();
        server.refuse(status, "").await;
        let reason = ClosedReason::Refused { status: Some(number), message: String::new() };
        assert_eq!(client.opened().await, Err(Error::Closed(reason)));
    }
}

/// Gives t1, t2, … and counts.
fn counting() -> (TokenSource, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let source = TokenSource::provider({
        let count = count.clone();
        move || {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(format!("t{number}"))
            }
        }
    });
    (source, count)
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_when_it_was_refused_or_has_expired() {
    let (mut server, mut options) = Server::new();
    let (source, count) = counting();
    options.token = source;
    let (client, _events) = Client::connect(options).unwrap();
    server.refuse("401 Unauthorized", "").await;
    let peer = server.accept().await;
    assert_eq!(peer.token, "t2");
    peer.close(4000).await;
    let peer = server.accept().await;
    assert_eq!(peer.token, "t2");
    peer.close(4005).await;
    let mut peer = server.accept().await;
    assert_eq!(peer.token, "t3");
    let (expires_at, ()) = tokio::join!(client.auth("mine"), async {
        let request = peer.command().await;
        peer.answer(&request, Answer::Auth { expires_at: Millis(9) }).await;
    });
    assert_eq!(expires_at, Ok(Millis(9)));
    drop(peer);
    assert_eq!(server.accept().await.token, "mine");
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_token_that_is_refused_too_ends_the_client() {
    let (mut server, options) = Server::new();
    let (client, _events) = Client::connect(options).unwrap();
    server.refuse("401 Unauthorized", "").await;
    server.refuse("401 Unauthorized", "").await;
    assert_eq!(client.opened().await, Err(Error::Closed(ClosedReason::Unauthorized)));
}

#[tokio::test(start_paused = true)]
async fn clients_that_share_a_token_source_fetch_it_once() {
    let (source, count) = counting();
    let (mut server, mut options) = Server::new();
    options.token = source;
    let clients: Vec<_> = (0..10).map(|_| Client::connect(options.clone()).unwrap()).collect();
    for _ in 0..10 {
        server.refuse("401 Unauthorized", "").await;
    }
    for _ in 0..10 {
        assert_eq!(server.accept().await.token, "t2");
    }
    assert_eq!(count.load(Ordering::Relaxed), 2);
    drop(clients);
}

#[tokio::test(start_paused = true)]
async fn a_token_provider_that_fails_is_asked_again() {
    let (mut server, mut options) = Server::new();
    let asked = Arc::new(AtomicU32::new(0));
    options.token = TokenSource::provider({
        let asked = asked.clone();
        move || {
            let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
            async move { if first { Err("the identity provider is away".into()) } else { Ok("t".to_owned()) } }
        }
    });
    let (client, _events) = Client::connect(options).unwrap();
    let _peer = server.accept().await;
    client.opened().await.unwrap();
}
