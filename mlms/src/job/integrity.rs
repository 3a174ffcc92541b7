//! `mlms job check-integrity`. What it finds is printed, and makes the command fail, so that a scheduler tells.

use anyhow::bail;
use mlms_protocol::{LobbyId, Seq};
use mlms_store::{EventPlace, Store, StoreError};
use serde_json::{Value, json};

use super::{Integrity, PAGE, print};
use crate::tool;

/// Events read at once.
const BATCH: u32 = 5_000;
/// Findings that are listed; all are counted.
const LISTED_MAX: usize = 1_000;
/// Sums that are none and are told one by one.
const UNEVEN_MAX: u32 = 1_000;

#[derive(Default)]
struct Findings {
    lobbies: u64,
    events: u64,
    count: u64,
    listed: Vec<Value>,
}

impl Findings {
    fn add(&mut self, finding: Value) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(finding);
        }
    }
}

pub(super) fn run(arguments: &Integrity) -> anyhow::Result<()> {
    let shared = &arguments.shared;
    let settings = tool::settings(&shared.flags)?;
    let (findings, aside) = tool::run(async {
        let store = tool::open(&settings).await?;
        let mut findings = Findings::default();
        check_events(&store, arguments.after.clone(), &mut findings).await?;
        check_states(&store, arguments.after.clone(), &mut findings).await?;
        check_statistics(&store, arguments.after.clone(), &mut findings).await?;
        Ok((findings, store.count_aside().await?))
    })?;
    let Findings { lobbies, events, count, listed } = findings;
    let report = json!({
        "job": "check-integrity", "lobbies": lobbies, "events": events, "set_aside": aside, "problems": count,
        "listed": listed,
    });
    print(shared, &report)?;
    if count > 0 {
        bail!("{count} problems were found");
    }
    Ok(())
}

async fn check_events(
    store: &Store,
    mut after: Option<LobbyId>,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    loop {
        let page = store.lobbies_after(after.as_ref(), PAGE).await?;
        if page.is_empty() {
            return Ok(());
        }
        for lobby in page {
            check_lobby(store, &lobby, findings).await?;
            findings.lobbies += 1;
            after = Some(lobby);
        }
        if let Some(last) = &after {
            let Findings { lobbies, events, count, .. } = findings;
            tool::tell(&format!(
                "{lobbies} lobbies, {events} events, {count} problems; checked up to {last}"
            ));
        }
    }
}

async fn check_lobby(store: &Store, lobby: &LobbyId, findings: &mut Findings) -> Result<(), StoreError> {
    let purged = store.purged_through(lobby).await?;
    let mut before: Option<EventPlace> = None;
    loop {
        let after = before.as_ref().map_or(Seq(0), |place| place.seq);
        let page = store.places(lobby, after, BATCH).await?;
        if page.is_empty() {
            return Ok(());
        }
        for place in page {
            findings.events += 1;
            // What was purged leaves holes, and a first event that is not 1.
            let known = before.as_ref().map_or(Seq(0), |before| before.seq).max(purged);
            if place.seq.0 > known.0 + 1 {
                findings.add(json!({
                    "problem": "gap", "lobby": lobby, "from": known.0 + 1, "to": place.seq.0 - 1,
                }));
            }
            if before.as_ref().is_some_and(|before| place.epoch < before.epoch) {
                findings.add(json!({"problem": "epoch_goes_back", "lobby": lobby, "seq": place.seq}));
            }
            before = Some(place);
        }
    }
}

/// Saved states whose events are missing.
async fn check_states(
    store: &Store,
    mut after: Option<LobbyId>,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    loop {
        let page = store.snapshots_after(after.as_ref(), PAGE).await?;
        if page.is_empty() {
            return Ok(());
        }
        for (lobby, seq) in page {
            let purged = store.purged_through(&lobby).await?;
            let has_event = !store.places(&lobby, Seq(seq.0.saturating_sub(1)), 1).await?.is_empty();
            if seq > purged && !has_event {
                findings.add(json!({"problem": "state_ahead_of_events", "lobby": lobby, "seq": seq}));
            }
            after = Some(lobby);
        }
    }
}

/// Statistics that no event explains, and sums that are none.
async fn check_statistics(
    store: &Store,
    from: Option<LobbyId>,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let mut after = from.clone();
    loop {
        let page = store.statistics_without_events(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for lobby in page {
            findings.add(json!({"problem": "statistics_without_events", "lobby": lobby}));
        }
    }
    let mut after = from;
    loop {
        let page = store.counted_ahead(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for lobby in page {
            findings.add(json!({"problem": "counted_ahead_of_events", "lobby": lobby}));
        }
    }
    for (user, stat) in store.uneven_statistics(UNEVEN_MAX).await? {
        findings.add(json!({"problem": "statistics_do_not_add_up", "user": user, "stat": stat}));
    }
    Ok(())
}
