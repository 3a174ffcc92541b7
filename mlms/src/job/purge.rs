//! `mlms job purge-history`.

use mlms_protocol::{LobbyId, Millis};
use mlms_store::{GAME_KINDS, Store, StoreError};
use serde_json::json;

use super::{PAGE, Purge, print};
use crate::tool;

/// Events removed in one transaction, at most.
const BATCH: u32 = 1_000;

pub(super) fn run(arguments: &Purge) -> anyhow::Result<()> {
    let shared = &arguments.shared;
    let settings = tool::settings(&shared.flags)?;
    let before = tool::ago(arguments.older_than);
    let (mut lobbies, mut events) = (0_u64, 0);
    let mut after = arguments.after.clone();
    tool::run(async {
        let store = tool::open(&settings).await?;
        loop {
            let page = store.lobbies_after(after.as_ref(), PAGE).await?;
            if page.is_empty() {
                return Ok(());
            }
            for lobby in page {
                events += purge(&store, &lobby, before, shared.dry_run).await?;
                lobbies += 1;
                after = Some(lobby);
            }
            if let Some(last) = &after {
                tool::tell(&format!("{lobbies} lobbies, {events} events; done up to {last}"));
            }
        }
    })?;
    let report = json!({
        "job": "purge-history", "dry_run": shared.dry_run, "before": before, "lobbies": lobbies, "events": events,
    });
    print(shared, &report)
}

/// Removes a lobby's events from before this time; in a lobby, times ascend with seq.
async fn purge(store: &Store, lobby: &LobbyId, before: Millis, dry_run: bool) -> Result<u64, StoreError> {
    let mut purged = 0;
    let mut after = store.purged_through(lobby).await?;
    loop {
        let page = store.places(lobby, after, BATCH).await?;
        let old: Vec<_> = page.iter().take_while(|place| place.at < before).collect();
        let Some(last) = old.last() else { return Ok(purged) };
        purged += if dry_run {
            old.iter().filter(|place| !GAME_KINDS.contains(&place.kind.as_str())).count() as u64
        } else {
            store.purge(lobby, after, last.seq).await?
        };
        if old.len() < page.len() {
            return Ok(purged);
        }
        after = last.seq;
    }
}
