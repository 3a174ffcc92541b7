//! What players have done and achieved, read from the event store. A broker without a database does not offer it; one
//! whose database is away says so, and serves everything else.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use mlms_protocol::{Millis, UserId};
use mlms_store::{GAMES_FINISHED, Store, StoreError};
use serde::Serialize;

use crate::credential;
use crate::edge::{Body, Edge};
use crate::passenger::verify_user;
use crate::query::decode;
use crate::refusal::Refusal;
use crate::rest::json;

/// The event store, empty until it could be opened.
pub type StoreSlot = Arc<OnceLock<Store>>;

/// What is asked of a player.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Achievements,
    Stats,
}

#[derive(Serialize)]
struct AchievementsAnswer {
    user: UserId,
    achievements: Vec<AchievementAnswer>,
}

#[derive(Serialize)]
struct AchievementAnswer {
    achievement: String,
    at: Millis,
}

#[derive(Serialize)]
struct StatsAnswer {
    user: UserId,
    games_finished: i64,
    stats: BTreeMap<String, StatAnswer>,
}

#[derive(Serialize)]
struct StatAnswer {
    count: i64,
    sum: i64,
    max_per_game: i64,
}

/// The player and the question of `/v1/players/{id}/achievements` and `/v1/players/{id}/stats`.
pub(crate) fn parse(path: &str) -> Option<(&str, Question)> {
    let (id, question) = path.strip_prefix("/v1/players/")?.split_once('/')?;
    match question {
        "achievements" => Some((id, Question::Achievements)),
        "stats" => Some((id, Question::Stats)),
        _ => None,
    }
}

/// Answers with what the event store knows; somebody who never played has nothing.
pub(crate) async fn answer(edge: &Edge, head: &Parts) -> Result<Response<Body>, Refusal> {
    verify_user(credential::of_request(head)?, &edge.verifier).await?;
    let (id, question) = parse(head.uri.path()).ok_or(Refusal::NotFound)?;
    let user = UserId::new(&decode(id)?).map_err(|_| Refusal::BadPlayer)?;
    let slot = edge.players.as_ref().ok_or(Refusal::NotFound)?;
    let store = slot.get().ok_or(Refusal::StoreAway)?;
    let away = |error: StoreError| {
        tracing::warn!(%error, "a player cannot be looked up");
        Refusal::StoreAway
    };
    match question {
        Question::Achievements => {
            let awards = store.awards(&user).await.map_err(away)?;
            let achievements = awards
                .into_iter()
                .map(|award| AchievementAnswer { achievement: award.achievement, at: award.at })
                .collect();
            Ok(json(StatusCode::OK, &AchievementsAnswer { user, achievements }))
        }
        Question::Stats => {
            let mut statistics = store.statistics(&user).await.map_err(away)?;
            let games_finished = statistics.remove(GAMES_FINISHED).map_or(0, |games| games.times);
            let stat = |(name, statistic): (String, mlms_store::Statistic)| {
                let answer = StatAnswer {
                    count: statistic.times,
                    sum: statistic.total,
                    max_per_game: statistic.highest,
                };
                (name, answer)
            };
            let stats = statistics.into_iter().map(stat).collect();
            Ok(json(StatusCode::OK, &StatsAnswer { user, games_finished, stats }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_player_and_a_question() {
        assert_eq!(parse("/v1/players/ann/stats"), Some(("ann", Question::Stats)));
        assert_eq!(parse("/v1/players/a%2Fb/achievements"), Some(("a%2Fb", Question::Achievements)));
        for path in ["/v1/players/ann", "/v1/players/ann/", "/v1/players/a/b/stats", "/v1/lobbies"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }
}
