//! Clients that leave, or lose their connection, by plan, and come back after a while. All of it has its times before
//! a client is there, so that a seed repeats them.

use super::client::{Stage, What};
use super::{Engine, Tick};
use crate::plan::Micros;
use crate::rng::Rng;

impl Engine {
    /// A client is wanted for the first time: everything that it will do has its time from now on, so that a seed
    /// gives the same times whenever the server lets it in.
    pub(super) fn schedule(&mut self, place: usize, at: Micros) {
        if std::mem::replace(&mut self.clients[place].is_scheduled, true) {
            return;
        }
        self.schedule_streams(place, at);
        let (leaves, disconnects) =
            (self.scenario.churn.leave_per_minute, self.scenario.churn.disconnect_per_minute);
        let client = &mut self.clients[place];
        let wait = |rate: f64, dice: &mut Rng| dice.exponential(60e6 / rate) as Micros;
        let first = [
            (leaves > 0.0).then(|| (wait(leaves, &mut client.leaves), Tick::Leave)),
            (disconnects > 0.0).then(|| (wait(disconnects, &mut client.disconnects), Tick::Disconnect)),
        ];
        for (wait, tick) in first.into_iter().flatten() {
            self.arm(at + wait, place, tick);
        }
    }

    /// The time to leave or to lose the connection has come; false: it is not there to do so.
    fn churns(&mut self, due: Micros, place: usize, tick: Tick) -> bool {
        let churn = &self.scenario.churn;
        let client = &mut self.clients[place];
        let (dice, rate) = match tick {
            Tick::Leave => (&mut client.leaves, churn.leave_per_minute),
            _ => (&mut client.disconnects, churn.disconnect_per_minute),
        };
        let wait = dice.exponential(60e6 / rate) as Micros;
        let [least, most] = churn.away_ms;
        let away = 1_000 * (least + dice.below(most - least + 1));
        let is_there = !self.is_over && matches!(client.stage, Stage::In);
        if is_there {
            client.away = away;
        }
        self.arm(due + wait.max(1), place, tick);
        is_there
    }

    pub(super) fn churn_leave(&mut self, due: Micros, place: usize) {
        if !self.churns(due, place, Tick::Leave) {
            return;
        }
        self.leave(place);
    }

    fn leave(&mut self, place: usize) {
        let lobby = self.lobby_name(place);
        if self.command(place, What::Leave, &format!("\"op\":\"leave\",\"lobby\":\"{lobby}\"")) {
            self.clients[place].stage = Stage::Leaving;
        }
    }

    pub(super) fn leave_again(&mut self, place: usize, connection: u32) {
        let client = &self.clients[place];
        if client.connection == connection && matches!(client.stage, Stage::Leaving) {
            self.leave(place);
        }
    }

    pub(super) fn churn_disconnect(&mut self, due: Micros, place: usize) {
        if self.churns(due, place, Tick::Disconnect) {
            self.drop_connection(place);
            self.arm_comeback(place);
        }
    }

    /// Away by plan for a while.
    pub(super) fn arm_comeback(&mut self, place: usize) {
        let client = &mut self.clients[place];
        client.is_away = true;
        let (wait, connection) = (client.away, client.connection);
        self.arm(self.now + wait, place, Tick::Comeback { connection });
    }

    pub(super) fn come_back(&mut self, place: usize, connection: u32) {
        let client = &mut self.clients[place];
        if client.connection != connection || !client.is_wanted || client.is_refused {
            return;
        }
        client.is_away = false;
        match client.stage {
            Stage::Off => self.begin(place, self.now),
            Stage::Out => self.join(place),
            _ => {}
        }
    }
}
