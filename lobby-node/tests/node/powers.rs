//! What players do to each other in the random runs: kicks, bans, mutes, and games.

use mlms_checker::{Invoke, What};
use mlms_protocol::command::{Moderate, Moderation};
use mlms_protocol::{Command, LobbyCommand, LobbyId};
use rand::Rng;
use rand::seq::IndexedRandom;

use crate::history::text;
use crate::player::{Open, Player};

impl Player {
    /// Does something to somebody; only a host may, and may not know that it is none any more.
    pub(crate) async fn moderate(&mut self, lobby: LobbyId) {
        let user = self.role.users.choose(&mut self.random).unwrap().clone();
        let (action, for_s) = match self.random.random_range(0..10) {
            0..4 => (Moderation::Kick, None),
            4..7 => (Moderation::Ban, Some(self.random.random_range(1..6))),
            7 => (Moderation::Unban, None),
            8 => (Moderation::Mute, Some(1)),
            _ => (Moderation::Transfer, None),
        };
        let command = LobbyCommand::Moderate(Moderate { action, user: user.clone(), for_s, reason: None });
        let call = self.call();
        let (op, of) = (text(command.op()), text(&lobby));
        self.note(What::Invoke(Invoke { call, op, lobby: of, user: Some(text(&user)), ..Invoke::default() }));
        let nonce = self.nonce();
        self.send(Command::Lobby(lobby, command), Some(nonce), Open::Plain(call)).await;
    }

    /// Takes part in a game, as far as the lobby lets it.
    pub(crate) async fn play_game(&mut self, lobby: LobbyId) {
        let command = match self.random.random_range(0..4) {
            0 => LobbyCommand::Ready { ready: self.random.random_bool(0.5) },
            1 => LobbyCommand::Start,
            2 => LobbyCommand::Report { stat: "damage".to_owned(), amount: 5, user: None },
            _ => LobbyCommand::Finish { results: None },
        };
        let call = self.invoke(command.op(), &lobby);
        let nonce = self.nonce();
        self.send(Command::Lobby(lobby, command), Some(nonce), Open::Plain(call)).await;
    }
}
