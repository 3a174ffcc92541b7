//! Applies one rule to everything that has happened: counts every lobby again from its stored events, then awards who
//! has earned it. The service may run meanwhile: a lobby is counted under the lock that the service takes, too.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use mlms_protocol::{LobbyId, Millis, Seq, UserId};
use mlms_store::{Award, Statistic, Store, StoreError, Tally};

use crate::rules::Rule;

/// Lobbies and players read at once.
const PAGE: u32 = 500;

/// How far a replay is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub lobbies: u64,
    pub lobbies_total: u64,
    /// Events that count, so far.
    pub events: u64,
}

/// Runs a rule over all stored events, and gives the players who gain its achievement by it, with what they have; a dry
/// run changes nothing.
///
/// # Errors
/// As the store's. What was done before stays done; run again, it ends the same.
pub async fn replay(
    store: &Store,
    rule: &Rule,
    dry_run: bool,
    mut tell: impl FnMut(Progress),
) -> Result<Vec<(UserId, i64)>, StoreError> {
    let mut progress = Progress { lobbies_total: store.count_lobbies().await?, ..Progress::default() };
    let mut counted: BTreeMap<UserId, Statistic> = BTreeMap::new();
    let mut after: Option<LobbyId> = None;
    loop {
        let lobbies = store.lobbies_after(after.as_ref(), PAGE).await?;
        let Some(last) = lobbies.last() else { break };
        after = Some(last.clone());
        for lobby in &lobbies {
            progress.events += if dry_run {
                count(store, lobby, rule.stat(), &mut counted).await?
            } else {
                store.recount(lobby).await?
            };
            progress.lobbies += 1;
            tell(progress);
        }
    }
    if dry_run {
        return gaining(store, rule, counted).await;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
    let mut gained = Vec::new();
    let mut after: Option<UserId> = None;
    loop {
        let players = store.statistics_of(rule.stat(), after.as_ref(), PAGE).await?;
        let Some((last, _)) = players.last() else { return Ok(gained) };
        after = Some(last.clone());
        for (user, statistic) in players.into_iter().filter(|(_, statistic)| rule.is_earned(statistic)) {
            let award = Award { user: user.clone(), achievement: rule.achievement.clone(), at };
            if store.add_award(&award).await? {
                gained.push((user, rule.value(&statistic)));
            }
        }
    }
}

/// Adds up one lobby, and changes nothing.
async fn count(
    store: &Store,
    lobby: &LobbyId,
    stat: &str,
    counted: &mut BTreeMap<UserId, Statistic>,
) -> Result<u64, StoreError> {
    let (mut tally, mut after, mut events) = (Tally::default(), Seq(0), 0);
    loop {
        let page = store.game_events(lobby, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        events += page.len() as u64;
        page.iter().for_each(|event| tally.take(&event.change));
    }
    for ((user, name), gained) in tally.into_gained() {
        if name == stat {
            counted.entry(user).or_default().add(gained);
        }
    }
    Ok(events)
}

async fn gaining(
    store: &Store,
    rule: &Rule,
    counted: BTreeMap<UserId, Statistic>,
) -> Result<Vec<(UserId, i64)>, StoreError> {
    let mut gaining = Vec::new();
    for (user, statistic) in counted.into_iter().filter(|(_, statistic)| rule.is_earned(statistic)) {
        let has = store.awards(&user).await?;
        if has.iter().all(|award| award.achievement != rule.achievement) {
            gaining.push((user, rule.value(&statistic)));
        }
    }
    Ok(gaining)
}
