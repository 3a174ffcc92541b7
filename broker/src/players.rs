//! What players have done and achieved, read from the event store. A broker without a database does not offer it; one
//! whose database is away says so, and serves everything else.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use mlms_protocol::{Millis, UserId};
use mlms_store::{GAMES_FINISHED, Store, StoreError};
use serde::Serialize;

use crate::api::{Call, Fault, Reply};
use crate::refusal::Refusal;

/// The event store, empty until it could be opened.
pub type StoreSlot = Arc<OnceLock<Store>>;

#[derive(Serialize)]
struct AchievementsAnswer {
    user: UserId,
    achievements: Vec<AchievementAnswer>,
}

#[derive(Serialize)]
pub(crate) struct AchievementAnswer {
    achievement: String,
    at: Millis,
}

#[derive(Serialize)]
pub(crate) struct StatsAnswer {
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

/// The store, if there is one and it could be opened.
pub(crate) fn store<'a>(call: &Call<'a>) -> Result<&'a Store, Fault> {
    let slot = call.edge.players.as_ref().ok_or(Refusal::NotFound)?;
    slot.get().ok_or(Refusal::StoreAway.into())
}

/// What a caller hears of a store that fails.
pub(crate) fn away(error: StoreError) -> Fault {
    tracing::warn!(%error, "the store does not answer a REST call");
    Refusal::StoreAway.into()
}

/// `GET /v1/players/{user}/achievements`; somebody who never played has none.
pub(crate) async fn achievements(call: &Call<'_>) -> Result<Reply, Fault> {
    let user = call.user()?;
    let achievements = achievements_of(store(call)?, &user).await?;
    Ok(Reply::ok(&AchievementsAnswer { user, achievements }))
}

pub(crate) async fn achievements_of(store: &Store, user: &UserId) -> Result<Vec<AchievementAnswer>, Fault> {
    let awards = store.awards(user).await.map_err(away)?;
    let answer =
        |award: mlms_store::Award| AchievementAnswer { achievement: award.achievement, at: award.at };
    Ok(awards.into_iter().map(answer).collect())
}

/// `GET /v1/players/{user}/stats`.
pub(crate) async fn stats(call: &Call<'_>) -> Result<Reply, Fault> {
    Ok(Reply::ok(&stats_of(store(call)?, &call.user()?).await?))
}

pub(crate) async fn stats_of(store: &Store, user: &UserId) -> Result<StatsAnswer, Fault> {
    let mut statistics = store.statistics(user).await.map_err(away)?;
    let games_finished = statistics.remove(GAMES_FINISHED).map_or(0, |games| games.times);
    let stat = |(name, statistic): (String, mlms_store::Statistic)| {
        let answer =
            StatAnswer { count: statistic.times, sum: statistic.total, max_per_game: statistic.highest };
        (name, answer)
    };
    let stats = statistics.into_iter().map(stat).collect();
    Ok(StatsAnswer { user: user.clone(), games_finished, stats })
}
