//! A player's connection: made, lost, and what was asked on it. Lobbies are resumed on a new one at once.

use std::time::Duration;

use mlms_checker::{Invoke, Position as NotedPosition, What};
use mlms_protocol::command::ResumePoint;
use mlms_protocol::{Command, Nonce};
use rand::Rng;
use tokio::time::Instant;

use super::{Open, Player};
use crate::fleet::Entrance;
use crate::history::text;

impl Player {
    pub(super) async fn connect(&mut self) {
        let pause = Duration::from_millis(self.random.random_range(0..300));
        tokio::time::sleep(pause).await;
        let entrance = Entrance {
            encoding: self.role.encoding,
            pipe_bytes: self.random.random_range(1_024..16_384),
            ..Entrance::default()
        };
        let node = self.random.random_range(0..self.role.nodes);
        let Some(line) = self.fleet.enter(node, &self.role.user, entrance).await else { return };
        self.line = Some(line);
        self.note(What::Connected { user: text(&self.role.user) });
        for inside in self.inside.values_mut() {
            inside.live = false;
        }
        for message in &mut self.unanswered {
            message.sent = false;
        }
        self.resume().await;
    }

    /// Resumes all lobbies in one command.
    async fn resume(&mut self) {
        let points: Vec<_> = self
            .inside
            .iter()
            .map(|(lobby, inside)| {
                ResumePoint::new(lobby.clone(), inside.position.epoch, inside.position.seq)
            })
            .collect();
        if points.is_empty() {
            return;
        }
        let mut calls = Vec::new();
        for ResumePoint { lobby, epoch, seq, .. } in &points {
            let call = self.call();
            let since = Some(NotedPosition { epoch: epoch.0, seq: seq.0 });
            let (op, lobby_name) = (text("resume"), text(lobby));
            self.note(What::Invoke(Invoke { call, op, lobby: lobby_name, since, ..Invoke::default() }));
            calls.push((call, lobby.clone()));
        }
        self.send(Command::Resume(points), None, Open::Resume(calls)).await;
    }

    pub(crate) async fn send(&mut self, command: Command, nonce: Option<Nonce>, open: Open) {
        let id = match &mut self.line {
            Some(line) => line.send(command, nonce).await,
            None => None,
        };
        match id {
            Some(id) => _ = self.open.insert(id, open),
            None => {
                self.gone(open);
                self.lose();
            }
        }
    }

    /// The answer to this can no longer come.
    pub(super) fn gone(&mut self, open: Open) {
        let calls = match open {
            Open::Resume(calls) => calls.into_iter().map(|(call, _)| call).collect(),
            Open::Join(call, _)
            | Open::Leave(call, _)
            | Open::Durable(call, _)
            | Open::Plain(call)
            | Open::History { call, .. } => vec![call],
        };
        for call in calls {
            self.note(What::Unknown { call });
        }
    }

    pub(super) fn lose(&mut self) {
        if self.line.take().is_none() {
            return;
        }
        for (_, open) in std::mem::take(&mut self.open) {
            self.gone(open);
        }
        self.note(What::Disconnected {});
    }

    pub(super) async fn read_until(&mut self, until: Instant) {
        loop {
            let Some(line) = &mut self.line else { return };
            tokio::select! {
                biased;
                frame = line.next() => match frame {
                    Some(frame) => {
                        let frames = match &mut self.mangler {
                            Some(mangler) => mangler.mangle(frame),
                            None => vec![frame],
                        };
                        for frame in frames {
                            self.take(frame);
                        }
                    }
                    None => self.lose(),
                },
                () = tokio::time::sleep_until(until) => return,
            }
            self.repeat_unsent().await;
        }
    }
}
