//! Coming back: all lobbies of a session in one command, with one reply.

use std::sync::Arc;

use mlms_protocol::command::{Join, Position, ResumePoint};
use mlms_protocol::{Answer, CloseCode, ErrorCode, Limits, LobbyCommand, LobbyId, Refusal};

use super::reply::{Gather, ReplyTo};
use super::{Session, rate_limited};
use crate::limiter::Grant;

impl Session {
    /// Joins several lobbies again, each behind what its player has seen.
    pub(super) async fn resume(
        &mut self,
        id: Option<u32>,
        points: Vec<Result<ResumePoint, (LobbyId, String)>>,
    ) {
        let mut unique: Vec<(LobbyId, Result<Join, String>)> = Vec::with_capacity(points.len());
        for point in points {
            let (lobby, join) = match point {
                Ok(ResumePoint { lobby, epoch, seq, saved, password, invite, role }) => {
                    let since = Some(Position { epoch, seq });
                    (
                        lobby,
                        Ok(Join { since, saved, password, invite, role, resumed: true, ..Join::default() }),
                    )
                }
                Err((lobby, why)) => (lobby, Err(why)),
            };
            match unique.iter_mut().find(|(known, _)| *known == lobby) {
                Some((_, known)) => *known = join,
                None => unique.push((lobby, join)),
            }
        }
        if unique.is_empty() {
            return self.answer(id, Answer::Resumed(Vec::new()));
        }
        let lobbies = unique.iter().map(|(lobby, _)| lobby.clone()).collect();
        let gather = Arc::new(Gather::new(id, Arc::clone(&self.handle), lobbies));
        let mut entered = self.handle.lobby_count();
        for (place, (lobby, join)) in unique.into_iter().enumerate() {
            let join = match self.joins.take(self.moment()) {
                Grant::Flood => return self.close(CloseCode::Flood, "far too many lobbies resumed"),
                Grant::Later(ms) => Err(rate_limited("joins", ms)),
                Grant::Yes => join.map_err(|why| Refusal::new(ErrorCode::BadRequest, why)),
            };
            let join = join.and_then(|join| {
                if !self.handle.is_in(&lobby) {
                    entered += 1;
                    if entered > self.node.rules.load().limits.lobbies_per_session_max {
                        return Err(self.too_many_lobbies());
                    }
                }
                Ok(LobbyCommand::Join(join))
            });
            let join = match join {
                Ok(join) => join,
                Err(refusal) => {
                    self.node.metrics.refusals.with_label_values(&[refusal.code.as_str()]).inc();
                    gather.complete(place, Err(refusal));
                    continue;
                }
            };
            self.forward(lobby, ReplyTo::Resume(Arc::clone(&gather), place), None, join).await;
        }
    }
}

pub(super) fn check_length(lobbies: usize, limits: &Limits) -> Result<(), Refusal> {
    let most = limits.lobbies_per_session_max;
    match lobbies > most {
        true => Err(Refusal::new(ErrorCode::BadRequest, format!("a resume names at most {most} lobbies"))),
        false => Ok(()),
    }
}
