//! Games that play themselves: a lobby's players get ready, their host starts, all act and report, the host finishes,
//! and the achievement that the damage earns must come.

use serde_json::Value;

use super::client::{Move, Stage, What};
use super::sending::GAME_STREAM;
use super::{Engine, Tick};
use crate::plan::{Micros, micros};
use crate::scenario::Game;

/// Between two rounds of a lobby.
const PAUSE: Micros = 200_000;

/// Damage of everyone who is not to earn the achievement.
const DAMAGE_OF_OTHERS: u32 = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Progress {
    #[default]
    Gathering,
    Readying,
    Starting,
    Playing,
    Reporting,
    Finishing,
    Over,
}

/// Where a lobby's games are.
#[derive(Debug, Default)]
pub(crate) struct Round {
    progress: Progress,
    /// From 0.
    number: u32,
    /// The host's id as JSON text.
    host: Option<Vec<u8>>,
    /// Commands of this step that are not done yet.
    open: u32,
    /// The place of the client whose achievement has not come.
    awaited: Option<usize>,
}

impl Round {
    pub(super) fn awaits(&self) -> bool {
        self.awaited.is_some()
    }

    /// Games that have begun are played to their end, if `settle_seconds` allow.
    pub(super) fn is_under_way(&self) -> bool {
        match self.progress {
            Progress::Gathering => self.number > 0,
            Progress::Over => false,
            _ => true,
        }
    }
}

impl Engine {
    fn game(&self) -> Option<Game> {
        self.scenario.game.clone()
    }

    pub(super) fn note_host(&mut self, place: usize, ok: &Value) {
        let host = &ok["state"]["host"];
        if host.is_string() {
            let lobby = self.clients[place].lobby;
            self.lobbies[lobby].round.host = Some(host.to_string().into_bytes());
        }
    }

    /// A player is in its lobby, again perhaps: what it has not said yet is said.
    pub(super) fn player_entered(&mut self, place: usize) {
        if self.scenario.game.is_none() {
            return;
        }
        for it in std::mem::take(&mut self.clients[place].moves) {
            self.make_move(place, it);
        }
        let lobby = self.clients[place].lobby;
        if self.lobbies[lobby].round.progress == Progress::Gathering {
            self.play(lobby);
        }
    }

    /// Begins a lobby's next step when its time has come.
    pub(super) fn play(&mut self, lobby: usize) {
        let Some(game) = self.game() else { return };
        let members = self.lobbies[lobby].members.clone();
        match self.lobbies[lobby].round.progress {
            Progress::Gathering => {
                let all = members.iter().all(|place| matches!(self.clients[*place].stage, Stage::In));
                if all {
                    self.step(lobby, Progress::Readying, members.len());
                    members.iter().for_each(|place| self.make_move(*place, Move::Ready));
                }
            }
            Progress::Playing => {
                let reports = game.reports.max(1);
                self.step(lobby, Progress::Reporting, members.len() * reports as usize);
                for (rank, place) in members.iter().enumerate() {
                    let damage = if rank == 0 { game.damage } else { DAMAGE_OF_OTHERS };
                    for number in 0..reports {
                        let of = damage / reports + u32::from(number < damage % reports);
                        self.make_move(*place, Move::Report { of, number });
                    }
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, lobby: usize, progress: Progress, open: usize) {
        let round = &mut self.lobbies[lobby].round;
        (round.progress, round.open) = (progress, open as u32);
    }

    /// Says a move, with a nonce: said twice it happens once.
    pub(super) fn make_move(&mut self, place: usize, it: Move) {
        let client = &self.clients[place];
        let lobby = &self.lobbies[client.lobby];
        let (name, round, number) = (&lobby.name, lobby.round.number, client.number);
        let (operation, more) = match it {
            Move::Ready => ("ready", ",\"ready\":true".to_owned()),
            Move::Start => ("start", String::new()),
            Move::Report { of, .. } => ("report", format!(",\"stat\":\"damage\",\"amount\":{of}")),
            Move::Finish => ("finish", ",\"results\":{\"by\":\"loadtest\"}".to_owned()),
        };
        let part = if let Move::Report { number, .. } = it { number } else { 0 };
        let nonce = format!("{}-{number}-{round}{}{part}", self.run, &operation[..3]);
        let fields = format!("\"op\":\"{operation}\",\"lobby\":\"{name}\",\"nonce\":\"{nonce}\"{more}");
        if !matches!(client.stage, Stage::In) || !self.command(place, What::Game(it), &fields) {
            self.clients[place].moves.push(it);
        }
    }

    /// A move got its reply.
    pub(super) fn moved(&mut self, place: usize, it: Move, refusal: Option<&Value>) {
        let lobby = self.clients[place].lobby;
        if let Some(error) = refusal {
            self.refused(name(it), error);
            if let Some(retry_ms) = error["retry_ms"].as_u64() {
                let wait = 1_000 * retry_ms.max(1) + self.rng.below(20_000);
                self.arm(self.now + wait, place, Tick::Move { it });
            } else {
                self.lobbies[lobby].round.progress = Progress::Over;
            }
            return;
        }
        let round = &mut self.lobbies[lobby].round;
        round.open = round.open.saturating_sub(1);
        if round.open > 0 {
            return;
        }
        match round.progress {
            Progress::Readying => self.as_host(lobby, Progress::Starting, Move::Start),
            Progress::Starting => self.begin_play(lobby),
            Progress::Reporting => self.as_host(lobby, Progress::Finishing, Move::Finish),
            Progress::Finishing => self.end_round(lobby),
            Progress::Gathering | Progress::Playing | Progress::Over => {}
        }
    }

    fn as_host(&mut self, lobby: usize, progress: Progress, it: Move) {
        self.step(lobby, progress, 1);
        let host = self.lobbies[lobby].round.host.clone();
        let members = &self.lobbies[lobby].members;
        let host = members.iter().find(|place| Some(&self.clients[**place].user_text) == host.as_ref());
        match host.copied() {
            Some(place) => self.make_move(place, it),
            None => {
                self.measure.counts.errors += 1;
                self.measure.reason("a game without a host".to_owned());
                self.lobbies[lobby].round.progress = Progress::Over;
            }
        }
    }

    fn begin_play(&mut self, lobby: usize) {
        let Some(game) = self.game() else { return };
        self.step(lobby, Progress::Playing, 0);
        let round = self.lobbies[lobby].round.number;
        self.arm(self.now + micros(game.seconds), lobby, Tick::Game);
        if game.actions_per_s <= 0.0 {
            return;
        }
        for place in self.lobbies[lobby].members.clone() {
            let actions = self.clients[place].streams.iter_mut().find(|stream| stream.sender == GAME_STREAM);
            let share = actions.map_or(0.0, |stream| stream.dice.unit());
            let offset = (share * 1e6 / game.actions_per_s) as Micros;
            self.arm(self.now + offset, place, Tick::Action { round });
        }
    }

    /// A player's next action is due.
    pub(super) fn action(&mut self, due: Micros, place: usize, round: u32) {
        let Some(rate) = self.scenario.game.as_ref().map(|game| game.actions_per_s) else { return };
        let now = &self.lobbies[self.clients[place].lobby].round;
        if self.is_over || now.progress != Progress::Playing || now.number != round {
            return;
        }
        self.arm(due + ((1e6 / rate) as Micros).max(1), place, Tick::Action { round });
        self.measure.lag(self.now.saturating_sub(due));
        self.send_next(place, GAME_STREAM, due);
    }

    fn end_round(&mut self, lobby: usize) {
        let Some(game) = self.game() else { return };
        self.result.games_finished += 1;
        let first = self.lobbies[lobby].members[0];
        let round = &mut self.lobbies[lobby].round;
        if round.number == 0 && !game.achievement.is_empty() {
            // It may have come already; then it was counted for its user.
            if !self.clients[first].has_achievement {
                round.awaited = Some(first);
            }
        }
        let round = &mut self.lobbies[lobby].round;
        round.number += 1;
        round.progress = if round.number < game.rounds { Progress::Gathering } else { Progress::Over };
        if round.progress == Progress::Gathering {
            // The next round begins as the first one did.
            self.arm(self.now + PAUSE, lobby, Tick::Game);
        }
    }

    pub(super) fn achievement(&mut self, place: usize, payload: &[u8]) {
        let value: Value = serde_json::from_slice(payload).unwrap_or_default();
        self.result.achievements += 1;
        let Some(game) = &self.scenario.game else { return };
        if value["achievement"] != *game.achievement {
            return;
        }
        let client = &mut self.clients[place];
        let (lobby, number) = (client.lobby, client.number);
        if value["user"].to_string().as_bytes() != client.user_text {
            return;
        }
        let again = std::mem::replace(&mut client.has_achievement, true);
        let round = &mut self.lobbies[lobby].round;
        round.awaited = round.awaited.filter(|awaited| *awaited != place);
        let earned = self.lobbies[lobby].members.first() == Some(&place);
        if !earned || again {
            let what = if again { "came twice" } else { "was not earned" };
            self.result.faults.add("achievement", 1, || format!("the achievement of client {number} {what}"));
        }
    }

    /// Who is host may change while a game goes on.
    pub(super) fn game_event(&mut self, place: usize, event: &[u8], user: Option<&[u8]>) {
        if event == b"\"host_changed\"" {
            let lobby = self.clients[place].lobby;
            self.lobbies[lobby].round.host = user.map(<[u8]>::to_vec);
        }
    }
}

fn name(it: Move) -> &'static str {
    match it {
        Move::Ready => "ready",
        Move::Start => "start",
        Move::Report { .. } => "report",
        Move::Finish => "finish",
    }
}
