//! A player who does things at random, by a seed, and notes all it sees. It resumes, repeats what was not answered
//! with its nonce, and sometimes does not read.

mod acts;
mod connection;
mod hearing;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use mlms_checker::{History as NotedPage, Invoke, What};
use mlms_protocol::command::{Join, Position};
use mlms_protocol::lobby::Settings;
use mlms_protocol::{Encoding, Kind, LobbyId, Nonce, UserId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::history::{self, History, text};
use crate::line::Line;
use crate::planted::Mangler;

/// A lobby that players may enter.
#[derive(Clone)]
pub(crate) struct Place {
    pub lobby: LobbyId,
    pub capacity: Option<u32>,
}

impl Place {
    fn join(&self, since: Option<Position>) -> Join {
        let settings = Settings { capacity: self.capacity, ..Settings::default() };
        Join { create: Some(settings), since, ..Join::default() }
    }
}

/// Who a player is and what it may do.
#[derive(Clone)]
pub(crate) struct Role {
    pub name: String,
    pub user: UserId,
    pub encoding: Encoding,
    pub seed: u64,
    pub nodes: usize,
    pub places: Vec<Place>,
    pub users: Vec<UserId>,
    /// Lobbies are closed now and then.
    pub closes: bool,
}

pub(crate) struct Player {
    pub role: Role,
    fleet: Arc<Fleet>,
    history: Arc<History>,
    pub random: StdRng,
    line: Option<Line>,
    /// Lobbies that the player is in, with its position. Not live: to be resumed.
    inside: BTreeMap<LobbyId, Inside>,
    open: HashMap<u32, Open>,
    /// Durable messages without an answer, in their order.
    unanswered: Vec<Message>,
    /// The last message that got its ok.
    answered: Option<Message>,
    calls: u64,
    bodies: u64,
    /// Stands between the service and this player, and makes a mistake.
    mangler: Option<Mangler>,
}

struct Inside {
    position: Position,
    live: bool,
}

#[derive(Clone)]
pub(crate) struct Message {
    lobby: LobbyId,
    nonce: Nonce,
    kind: Kind,
    body: String,
    /// It is on this connection already.
    sent: bool,
}

/// A command without its answer, with the history's number of it.
pub(crate) enum Open {
    Join(u64, LobbyId),
    Resume(Vec<(u64, LobbyId)>),
    Leave(u64, LobbyId),
    Durable(u64, Message),
    Plain(u64),
    History { call: u64, lobby: LobbyId, after: u64, started: u64 },
}

impl Player {
    pub(crate) fn new(
        role: Role,
        fleet: Arc<Fleet>,
        history: Arc<History>,
        mangler: Option<Mangler>,
    ) -> Self {
        Player {
            mangler,
            random: StdRng::seed_from_u64(role.seed),
            role,
            fleet,
            history,
            line: None,
            inside: BTreeMap::new(),
            open: HashMap::new(),
            unanswered: Vec::new(),
            answered: None,
            calls: 0,
            bodies: 0,
        }
    }

    /// Plays until `end`, settles until `quiet`, and leaves.
    pub(crate) async fn play(mut self, end: Instant, quiet: Instant) {
        while Instant::now() < end {
            if self.line.is_none() {
                self.connect().await;
            }
            let pause = Duration::from_millis(self.random.random_range(5..400));
            self.read_until((Instant::now() + pause).min(end)).await;
            if self.line.is_some() && Instant::now() < end {
                self.act(end).await;
            }
        }
        while Instant::now() < quiet {
            if self.line.is_none() {
                self.connect().await;
            }
            self.mend().await;
            self.read_until((Instant::now() + Duration::from_millis(500)).min(quiet)).await;
        }
        let lost: Vec<_> =
            self.inside.iter().filter(|(_, inside)| !inside.live).map(|(lobby, _)| lobby).collect();
        assert!(
            self.line.is_some() && lost.is_empty() && self.unanswered.is_empty(),
            "{}, when all is quiet: connected {}, not back in {lost:?}, {} not answered",
            self.role.name,
            self.line.is_some(),
            self.unanswered.len(),
        );
        self.note(What::Settled {});
        // Nobody leaves before everybody has settled.
        self.read_until(Instant::now() + Duration::from_secs(1)).await;
        let lobbies: Vec<_> = self.inside.keys().cloned().collect();
        for lobby in lobbies {
            self.leave(lobby).await;
        }
        let answers = Instant::now() + Duration::from_secs(10);
        while !self.open.is_empty() && Instant::now() < answers && self.line.is_some() {
            self.read_until(Instant::now() + Duration::from_millis(100)).await;
        }
        self.lose();
    }

    pub(crate) fn note(&self, what: What<'static>) -> u64 {
        self.history.note(&self.role.name, what)
    }

    pub(crate) fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    fn new_body(&mut self) -> String {
        self.bodies += 1;
        let body = format!("{} {}", self.role.name, self.bodies);
        match self.random.random_range(0..20) {
            0 => format!("{body} {}", "x".repeat(2_000)),
            _ => body,
        }
    }

    pub(crate) fn invoke(&mut self, op: &'static str, lobby: &LobbyId) -> u64 {
        let call = self.call();
        self.note(What::Invoke(Invoke { call, op: text(op), lobby: text(lobby), ..Invoke::default() }));
        call
    }

    pub(crate) fn nonce(&mut self) -> Nonce {
        Nonce::new(&format!("{}-{}", self.role.name, self.random.random::<u64>())).unwrap()
    }
}

/// Notes a page of a lobby's history.
pub(crate) fn note_page(
    history: &History,
    lobby: &LobbyId,
    started: u64,
    after: u64,
    more: bool,
    is_final: bool,
    events: &[mlms_protocol::LobbyEvent],
) {
    let events = events.iter().map(history::event).collect();
    let page = NotedPage { lobby: text(lobby), started, after, more, is_final, events };
    history.note("", What::History(page));
}
