//! Commands and their answers, bounds, and the end of a client.

use std::time::Duration;

use mlms_client::protocol::command::{History, Join, Recipients};
use mlms_client::protocol::event::ReadMark;
use mlms_client::protocol::{
    Answer, Body, Class, Command, Encoding, ErrorCode, Event, JoinStatus, Kind, LobbyCommand, Millis,
    Refusal, Seq, UserId,
};
use mlms_client::{
    Client, ClosedReason, Error, Incoming, InvalidOptions, Message, Options, State, TokenSource,
};

use crate::script::*;

#[tokio::test(start_paused = true)]
async fn every_verb_gets_its_answer_in_both_encodings() {
    for encoding in Encoding::ALL {
        let (server, mut options) = Server::new();
        options.encoding = encoding;
        let (_server, mut peer, client, mut events) = in_the_lounge_of(server, options).await;
        assert_eq!((peer.encoding, peer.uri.as_str(), peer.token.as_str()), (encoding, "/ws", "t0"));
        let lounge = lobby("lounge");

        let serve = tokio::spawn(async move {
            let request = peer.command().await;
            assert!(request.nonce.is_some(), "a durable message has a nonce");
            peer.answer(&request, sent(11, false)).await;
            peer.chat(&lobby("lounge"), 11).await;
            for answer in [
                Answer::Done,
                Answer::Done,
                Answer::History { events: Vec::new(), more: true },
                Answer::Roster { members: Vec::new(), next: Some("next".to_owned()) },
                Answer::Pong { now: Millis(5) },
                Answer::Auth { expires_at: Millis(6) },
            ] {
                let request = peer.command().await;
                assert!(request.nonce.is_none(), "{request:?} needs no nonce");
                peer.answer(&request, answer).await;
            }
            let request = peer.command().await;
            let full = Refusal::new(ErrorCode::RateLimited, "slowly").retry_after(500);
            peer.refuse(&request, full).await;
            let request = peer.command().await;
            peer.answer(&request, Answer::Done).await;
            peer
        });
        let place = client.chat(&lounge, "hello").await.unwrap();
        assert_eq!((place.seq, place.dup), (Seq(11), false));
        let dice = Message::new(Kind::new("game").unwrap(), Body::json(&6.into()));
        assert_eq!(client.send(&lounge, dice.to(Recipients::Host)).await, Ok(None));
        client.typing(&lounge).await.unwrap();
        let page = History { before: None, after: None, limit: 10 };
        assert_eq!(client.history(&lounge, page).await, Ok((Vec::new(), true)));
        assert_eq!(client.roster(&lounge, None, None).await.unwrap().1.as_deref(), Some("next"));
        assert_eq!(client.ping().await, Ok(Millis(5)));
        assert_eq!(client.auth("t1").await, Ok(Millis(6)));
        let refused = client.chat(&lounge, "again").await;
        assert!(matches!(refused, Err(Error::Refused(Refusal { retry_ms: Some(500), .. }))), "{refused:?}");
        client.leave(&lounge).await.unwrap();
        assert_eq!(next_seq(&mut events).await, 11);
        serve.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_says_its_class_and_recipients() {
    let (_server, mut peer, client, _events) = in_the_lounge().await;
    let lounge = lobby("lounge");
    let kind = || Kind::new("game").unwrap();
    let cases = [
        (Message::new(kind(), Body::text("x")), Class::Ordered, None),
        (Message::new(kind(), Body::text("x")).class(Class::Durable), Class::Durable, None),
        (Message::new(kind(), Body::text("x")).latest("k"), Class::Ephemeral, Some("k")),
        (Message::chat("x").to(Recipients::Others), Class::Ordered, None),
        (Message::new(kind(), Body::text("x")).retained("k"), Class::Durable, Some("k")),
    ];
    for (message, class, key) in cases {
        let (outcome, ()) = tokio::join!(client.send(&lounge, message), async {
            let request = peer.command().await;
            let Command::Lobby(_, LobbyCommand::Send(send)) = &request.command else { panic!("{request:?}") };
            assert_eq!((send.class, send.key.as_deref()), (class, key));
            assert_eq!(request.nonce.is_some(), class == Class::Durable);
            peer.answer(&request, Answer::Done).await;
        });
        assert_eq!(outcome, Ok(None));
    }
}

#[tokio::test(start_paused = true)]
async fn reading_blocking_and_reporting_are_asked_for_by_their_names() {
    let (_server, mut peer, client, _events) = in_the_lounge().await;
    let (lounge, bob) = (lobby("lounge"), UserId::new("bob").unwrap());
    let mark = ReadMark { read: Seq(7), unread: 2 };
    let list = vec![bob.clone()];
    let answers = async {
        for (op, answer) in [
            ("read", Answer::Read(mark)),
            ("block", Answer::Blocks { users: list.clone() }),
            ("blocked", Answer::Blocks { users: list.clone() }),
            ("unblock", Answer::Blocks { users: Vec::new() }),
            ("report_message", Answer::Done),
        ] {
            let request = peer.command().await;
            assert_eq!((request.command.op(), request.nonce.clone()), (op, None));
            peer.answer(&request, answer).await;
        }
    };
    let asks = async {
        assert_eq!(client.read(&lounge, Seq(7)).await, Ok(mark));
        assert_eq!(client.block(&bob).await, Ok(list.clone()));
        assert_eq!(client.blocked().await, Ok(list.clone()));
        assert_eq!(client.unblock(&bob).await, Ok(Vec::new()));
        assert_eq!(client.report_message(&lounge, Seq(7), None).await, Ok(()));
    };
    tokio::join!(asks, answers);
}

#[tokio::test(start_paused = true)]
async fn the_url_can_join_a_lobby_at_once_and_later_connections_resume_it() {
    let (mut server, mut options) = Server::new();
    options.lobby = Some(lobby("lounge"));
    let (_client, mut events) = Client::connect(options).unwrap();
    let mut peer = server.accept().await;
    assert_eq!(peer.uri, "/ws?lobby=lounge");
    let (lounge, state) = (lobby("lounge"), Box::new(state()));
    let snapshot = Event::Snapshot {
        lobby: lounge.clone(),
        epoch: mlms_client::protocol::Epoch(1),
        seq: Seq(4),
        state,
        mark: None,
    };
    peer.event(&snapshot).await;
    peer.chat(&lounge, 5).await;
    assert_eq!(next_seq(&mut events).await, 5);
    peer.close(4000).await;
    let mut peer = server.accept().await;
    assert_eq!(peer.uri, "/ws");
    assert_eq!(peer.resume_all().await[0].seq, Seq(5));
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_command_times_out() {
    let (server, mut options) = Server::new();
    options.command_timeout = Duration::from_secs(10);
    let (_server, mut peer, client, _events) = in_the_lounge_of(server, options).await;
    let (outcome, request) = tokio::join!(client.ping(), peer.command());
    assert_eq!(outcome, Err(Error::TimedOut));
    // The late answer is ignored, and the next command gets its own.
    peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    let (outcome, ()) = tokio::join!(client.ping(), async {
        let request = peer.command().await;
        peer.answer(&request, Answer::Pong { now: Millis(2) }).await;
    });
    assert_eq!(outcome, Ok(Millis(2)));
}

#[tokio::test(start_paused = true)]
async fn commands_wait_for_room_and_given_up_ones_make_it() {
    let (server, mut options) = Server::new();
    options.commands_max = 2;
    let (_server, mut peer, client, _events) = in_the_lounge_of(server, options).await;
    let ask = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { client.ping().await })
    };
    let tasks: Vec<_> = (0..5).map(|_| ask(&client)).collect();
    let (first, second) = (peer.command().await, peer.command().await);
    // Two are under way and one answer lets one more through.
    peer.answer(&second, Answer::Pong { now: Millis(1) }).await;
    let third = peer.command().await;
    for request in [first, third] {
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    }
    for _ in 0..2 {
        let request = peer.command().await;
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), Ok(Millis(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_the_server_would_not_take_is_not_sent() {
    let (_server, mut peer, client, _events) = in_the_lounge().await;
    let outcome = client.chat(&lobby("lounge"), &"x".repeat(70_000)).await;
    assert!(matches!(outcome, Err(Error::TooLarge { max: 65_536, .. })), "{outcome:?}");
    let (outcome, ()) = tokio::join!(client.ping(), async {
        let request = peer.command().await;
        assert_eq!(request.command, Command::Ping);
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    });
    assert_eq!(outcome, Ok(Millis(1)));
}

#[tokio::test(start_paused = true)]
async fn an_application_that_falls_behind_stops_the_reading_and_loses_nothing() {
    let (server, mut options) = Server::with_pipes_of(1_024);
    options.events_max = 4;
    let (_server, mut peer, client, mut events) = in_the_lounge_of(server, options).await;
    let lounge = lobby("lounge");
    let flood = async {
        for seq in 11..=200 {
            peer.chat(&lounge, seq).await;
        }
    };
    tokio::pin!(flood);
    // Nobody reads: the flood stops at the pipe's bound, for longer than any heartbeat.
    assert!(tokio::time::timeout(Duration::from_secs(600), &mut flood).await.is_err());
    assert!(matches!(*client.state().borrow(), State::Open { .. }));
    tokio::join!(flood, async {
        for seq in 11..=200 {
            assert_eq!(next_seq(&mut events).await, seq);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn close_says_goodbye_and_everything_unanswered_fails() {
    let (_server, mut peer, client, mut events) = in_the_lounge().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { client.ping().await }
    });
    peer.command().await;
    let (gone, ()) = tokio::join!(peer.next(), client.close());
    assert_eq!(gone, None);
    let closed = Error::Closed(ClosedReason::ByOwner);
    assert_eq!(asking.await.unwrap(), Err(closed.clone()));
    assert_eq!(client.ping().await, Err(closed.clone()));
    assert_eq!(client.opened().await, Err(closed));
    assert_eq!(*client.state().borrow(), State::Closed { reason: ClosedReason::ByOwner });
    assert_eq!(events.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn close_ends_a_client_that_is_connecting_or_waiting() {
    let (mut server, options) = Server::new();
    let (client, _events) = Client::connect(options).unwrap();
    client.close().await;
    let (mut second, options) = Server::new();
    let (client, _events) = Client::connect(options).unwrap();
    second.hang_up().await;
    until(&client, |state| matches!(state, State::Waiting { .. })).await;
    client.close().await;
    assert!(server.has_no_visitor() || second.has_no_visitor());
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_session() {
    let (_server, mut peer, client, mut events) = in_the_lounge().await;
    let other = client.clone();
    drop(client);
    let (pong, ()) = tokio::join!(other.ping(), async {
        let request = peer.command().await;
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    });
    assert_eq!(pong, Ok(Millis(1)));
    drop(other);
    assert_eq!(peer.next().await, None);
    assert_eq!(events.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_application_without_interest_in_events_can_drop_them() {
    let (server, mut options) = Server::new();
    options.events_max = 4;
    let (_server, mut peer, client, events) = in_the_lounge_of(server, options).await;
    drop(events);
    for seq in 11..=40 {
        peer.chat(&lobby("lounge"), seq).await;
    }
    let (pong, ()) = tokio::join!(client.ping(), async {
        let request = peer.command().await;
        peer.answer(&request, Answer::Pong { now: Millis(1) }).await;
    });
    assert_eq!(pong, Ok(Millis(1)));
}

#[tokio::test(start_paused = true)]
async fn joining_with_a_position_passes_on_the_missed_events() {
    let (mut server, options) = Server::new();
    let (client, mut events) = Client::connect(options).unwrap();
    let mut peer = server.accept().await;
    let lounge = lobby("lounge");
    let since =
        mlms_client::protocol::command::Position { epoch: mlms_client::protocol::Epoch(1), seq: Seq(7) };
    let join = Join { since: Some(since), ..Join::default() };
    let (outcome, ()) = tokio::join!(client.join(&lounge, join), async {
        let request = peer.command().await;
        peer.answer(&request, Answer::Joined(resumed(&lounge, 7))).await;
        peer.chat(&lounge, 8).await;
        peer.event(&Event::CaughtUp { lobby: lobby("lounge"), seq: Seq(8) }).await;
    });
    assert_eq!(outcome.unwrap().status, JoinStatus::Resumed);
    assert_eq!(next_seq(&mut events).await, 8);
    assert!(matches!(events.recv().await, Some(Incoming::Event(Event::CaughtUp { .. }))));
}

#[tokio::test]
async fn options_that_cannot_work_are_refused() {
    let connect = |url: &str| Client::connect(Options::new(url, TokenSource::fixed("t"))).err();
    assert_eq!(connect("http://x"), Some(InvalidOptions::Url("http://x".to_owned())));
    if !cfg!(feature = "tls") {
        assert_eq!(connect("wss://x"), Some(InvalidOptions::NoTls));
    }
    let none = Options { events_max: 0, ..Options::new("ws://x", TokenSource::fixed("t")) };
    assert_eq!(Client::connect(none).err(), Some(InvalidOptions::Zero));
}
