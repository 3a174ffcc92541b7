//! What a session gave first goes first, whoever hands it back.

use std::sync::Arc;

use mlms_protocol::LobbyId;
use prometheus::Registry;

use super::super::Turn;
use super::*;
use crate::metrics::Metrics;
use crate::session::{COMMAND_TIME, ReplyTo, SessionHandle};

const A: u64 = NUMBERS;
const B: u64 = 2 * NUMBERS;
const C: u64 = 3 * NUMBERS;

fn session(number: u64) -> Arc<SessionHandle> {
    SessionHandle::of_test(number, &Arc::new(Metrics::new(&Registry::new()))).0
}

fn command(session: &Arc<SessionHandle>, token: u64, command: LobbyCommand) -> Envelope {
    Envelope {
        caller: Arc::clone(&session.caller),
        origin: Origin::Session(Arc::clone(session), ReplyTo::Nobody),
        lobby: LobbyId::new("den").unwrap(),
        command,
        key: None,
        found: None,
        deadline: Instant::now() + COMMAND_TIME,
        trace: None,
        turn: Turn { token, ..Turn::default() },
    }
}

fn waiting(tokens: &[u64]) -> (Arc<SessionHandle>, Unanswered) {
    let ann = session(1);
    let mut unanswered = Unanswered::default();
    for token in tokens {
        unanswered.insert(command(&ann, *token, LobbyCommand::Leave));
    }
    (ann, unanswered)
}

/// Sends everything that may be sent: tokens, each with the one before it.
fn send_all(unanswered: &mut Unanswered) -> Vec<(u64, Option<u64>)> {
    let mut sent = Vec::new();
    while let Ok(Some(token)) = unanswered.next_unsent(Instant::now()) {
        let (_, before, _) = unanswered.send(token).unwrap();
        sent.push((token, before));
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_given_back_goes_before_those_that_came_after_it() {
    let (ann, mut unanswered) = waiting(&[B, C]);
    unanswered.insert(command(&ann, A, LobbyCommand::Leave));
    assert_eq!(send_all(&mut unanswered), [(A, None), (B, Some(A)), (C, Some(B))]);
}

#[tokio::test(start_paused = true)]
async fn a_command_names_the_nearest_before_it_of_its_session_that_is_still_open() {
    let (_, mut unanswered) = waiting(&[A, B, C]);
    unanswered.insert(command(&session(2), 4 * NUMBERS, LobbyCommand::Leave));
    assert!(unanswered.remove(B).is_some(), "answered before A");
    assert_eq!(send_all(&mut unanswered), [(A, None), (C, Some(A)), (4 * NUMBERS, None)]);
    assert!(unanswered.remove(A).is_some() && unanswered.remove(C).is_some());
    assert_eq!((unanswered.len(), unanswered.by_session.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_goes_past_what_a_former_owner_may_still_answer() {
    let (ann, mut unanswered) = waiting(&[A]);
    assert_eq!(send_all(&mut unanswered).len(), 1);
    unanswered.lose_owner(Former::Lives);
    unanswered.insert(command(&ann, B, LobbyCommand::Leave));
    assert!(unanswered.next_unsent(Instant::now()).is_err());
    tokio::time::advance(WORD_TIME).await;
    assert_eq!(send_all(&mut unanswered), [(A, None), (B, Some(A))]);
    // The first sending's refusal means nothing now, the second's does.
    assert!(matches!(unanswered.take_answered(A + 1, true), Err(Stray::SentAgain)));
    assert!(unanswered.take_answered(A + 2, true).is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_has_no_seq_and_may_have_been_heard_is_not_sent_again_and_nobody_waits_for_it() {
    let (ann, mut unanswered) = waiting(&[]);
    unanswered.insert(command(&ann, A, LobbyCommand::Typing));
    assert_eq!(send_all(&mut unanswered), [(A, None)]);
    unanswered.lose_owner(Former::Gone);
    unanswered.insert(command(&ann, B, LobbyCommand::Leave));
    assert_eq!(send_all(&mut unanswered), [(B, None)]);
    assert!(unanswered.last_sent(A + 1).is_some_and(|waiting| waiting.sent == Sent::Overtaken));
}
