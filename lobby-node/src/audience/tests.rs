//! A very large audience gets what is said in slices; who comes and goes meanwhile misses nothing and gets nothing twice.

use bytes::Bytes;
use mlms_protocol::event::PassingMessage;
use mlms_protocol::{Body, Class, Kind, Millis};
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, DuplexStream};

use super::delivery::ONE_GO;
use super::*;
use crate::lobby::{Passing, PassingEvent, Target};

const MEMBERS: u64 = ONE_GO as u64 + 200;

struct Member {
    session: Arc<SessionHandle>,
    far: DuplexStream,
}

impl Member {
    fn new(number: u64, metrics: &Arc<Metrics>) -> Member {
        let (session, far) = SessionHandle::of_test(number, metrics);
        Member { session, far }
    }

    /// The bodies of the messages that have come.
    async fn heard(&mut self) -> Vec<String> {
        let mut bytes = vec![0; 64 * 1024];
        let read = tokio::time::timeout(std::time::Duration::from_millis(1), self.far.read(&mut bytes)).await;
        let text = String::from_utf8_lossy(&bytes[..read.map_or(0, Result::unwrap)]).into_owned();
        text.split("\"body\":\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    }
}

fn message(text: &str) -> Passing {
    let message = PassingMessage {
        lobby: LobbyId::new("den").unwrap(),
        kind: Kind::new("game").unwrap(),
        from: None,
        at: Millis(0),
        body: Body::text(text),
    };
    Passing {
        event: PassingEvent::Message(message),
        class: Class::Ordered,
        key: None,
        to: Target::Everyone,
        trace: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_very_large_audience_is_told_in_slices_and_nobody_misses_or_repeats_a_message() {
    // A pipe counts against a task's turn, which a socket that is only tried does not.
    tokio::task::unconstrained(tell_in_slices()).await;
}

async fn tell_in_slices() {
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    let mut audience = Audience::new(LobbyId::new("den").unwrap(), Arc::clone(&metrics));
    let mut members: Vec<_> = (0..MEMBERS).map(|number| Member::new(number, &metrics)).collect();
    for member in &members {
        assert!(audience.seat(&member.session, false, None));
    }
    audience.stage_passing(message("first"));
    audience.flush();
    assert!(audience.is_spreading());
    let last = members.len() - 1;
    assert!(members[last].heard().await.is_empty(), "its slice has not come");
    // One is told something of its own, one leaves, and one comes, while the first message is under way.
    audience.stage_ready(&members[last].session, &Bytes::from_static(b"\"body\":\"own\""));
    audience.stage_passing(message("second"));
    assert!(audience.unseat(&members[last - 1].session));
    assert!(!audience.is_spreading(), "who leaves gets what was said before, and so does everybody");
    let mut late = Member::new(MEMBERS, &metrics);
    assert!(audience.seat(&late.session, false, None));
    audience.stage_passing(message("third"));
    audience.flush();
    assert!(audience.is_spreading());
    while !audience.spread() {}
    for member in &mut members[..last - 1] {
        assert_eq!(member.heard().await, ["first", "second", "third"]);
    }
    assert_eq!(members[last - 1].heard().await, ["first", "second"]);
    assert_eq!(members[last].heard().await, ["first", "own", "second", "third"]);
    assert_eq!(late.heard().await, ["third"]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_an_owner_cannot_serve_ends_in_a_snapshot_instead_of_asking_for_ever() {
    let metrics = Arc::new(Metrics::new(&Registry::new()));
    let mut audience = Audience::new(LobbyId::new("den").unwrap(), Arc::clone(&metrics));
    audience.head = Seq(5);
    let member = Member::new(1, &metrics);
    assert!(audience.seat(&member.session, false, Some((Seq(3), Some(Seq(5))))));
    assert_eq!(audience.pull(&member.session, |_| Some(Vec::new())), Pulled::OutOfReach);
}
