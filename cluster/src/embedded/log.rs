//! The embedded journal: a log and snapshots a shard. An append checks the owner's record and the log's top in one step;
//! behind a table it is committed there first. `journal.rs` is the only caller.

use std::sync::Arc;

use bytes::Bytes;
use mlms_protocol::{LobbyId, Shard};

use super::disk::{DiskError, Op};
use super::{Log, Shared, State};
use crate::Unavailable;
use crate::journal::{AppendError, EntryId, Fence, Loaded};

impl Shared {
    pub(crate) async fn append(
        self: &Arc<Self>,
        shard: Shard,
        fence: &Fence,
        entries: &[Bytes],
    ) -> Result<EntryId, AppendError> {
        let lost_answer = match &self.faults {
            Some(faults) => faults.before_append().await?,
            None => false,
        };
        let first = fence.top.following(fence.epoch);
        let last = match entries.len() as u64 {
            0 => fence.top,
            count => EntryId { n: first.n + count - 1, ..first },
        };
        {
            let mut state = self.lock();
            let mine = state.record(shard).is_some_and(|record| {
                record.node == fence.node
                    && record.incarnation == fence.incarnation
                    && record.epoch == fence.epoch
            });
            let is_fenced = match &self.faults {
                Some(faults) => !faults.skips_fence(!mine && !entries.is_empty()),
                None => true,
            };
            if !mine && is_fenced {
                let is_lost = state.record(shard).is_none_or(|record| record.epoch < fence.epoch);
                return Err(if is_lost { AppendError::Behind } else { AppendError::Deposed });
            }
            let log = state.logs.entry(shard).or_default();
            if !entries.is_empty() && log.top == last {
                return Ok(last);
            }
            if log.top != fence.top && is_fenced {
                let is_lost = log.top < fence.top;
                return Err(if is_lost { AppendError::Behind } else { AppendError::Deposed });
            }
            if entries.is_empty() {
                return Ok(fence.top);
            }
            if self.disk.is_some() {
                if log.busy {
                    return Err(AppendError::Unclear);
                }
                log.busy = true;
            }
        }
        let ids = (0..).map(|i| EntryId { n: first.n + i, ..first });
        let numbered: Vec<_> = ids.zip(entries.iter().map(|bytes| self.as_written(fence, bytes))).collect();
        let Some(disk) = &self.disk else {
            self.lock().logs.entry(shard).or_default().extend(numbered);
            return if lost_answer { Err(AppendError::Unclear) } else { Ok(last) };
        };
        // Memory follows the table even when nobody waits for this append any more.
        let busy = Busy { shared: Arc::clone(self), shard };
        let op = Op::Append { shard, entries: numbered.clone() };
        let then = move |written: Result<(), DiskError>| {
            if written.is_ok() {
                busy.shared.lock().logs.entry(busy.shard).or_default().extend(numbered);
            }
            written
        };
        match disk.write_then(op, then).await {
            Some(Ok(())) => Ok(last),
            _ => Err(AppendError::Unclear),
        }
    }

    /// A writer may pretend to be of another release.
    fn as_written(&self, fence: &Fence, bytes: &Bytes) -> Bytes {
        self.faults.as_ref().map_or_else(|| bytes.clone(), |faults| faults.written_by(&fence.node, bytes))
    }

    pub(crate) fn load(&self, shard: Shard) -> Result<Loaded, Unavailable> {
        self.reachable("the journal")?;
        let state = self.lock();
        let Some(log) = state.logs.get(&shard) else { return Ok(Loaded::default()) };
        if log.busy {
            // An append of the former owner is on its way to the disk; a moment later it is decided.
            return Err(Unavailable("the journal of this shard"));
        }
        Ok(Loaded {
            snapshots: log.snapshots.iter().map(|(lobby, bytes)| (lobby.clone(), bytes.clone())).collect(),
            entries: log.entries.iter().cloned().collect(),
            top: log.top,
        })
    }

    pub(crate) fn load_tail(&self, shard: Shard, after: EntryId) -> Result<Loaded, Unavailable> {
        let mut loaded = self.load(shard)?;
        loaded.snapshots.clear();
        loaded.entries.retain(|(id, _)| *id > after);
        loaded.top = loaded.top.max(after);
        Ok(loaded)
    }

    pub(crate) async fn save_snapshots(
        &self,
        shard: Shard,
        fence: &Fence,
        changed: Vec<(LobbyId, Option<Bytes>)>,
    ) -> Result<(), AppendError> {
        self.reachable("the journal").map_err(|_| AppendError::Unclear)?;
        let owns = |state: &State| {
            state.record(shard).is_some_and(|record| record.node == fence.node && record.epoch == fence.epoch)
        };
        if !owns(&self.lock()) {
            return Err(AppendError::Deposed);
        }
        if let Some(disk) = &self.disk {
            let op = Op::Snapshots { shard, changed: changed.clone() };
            disk.write(op).await.map_err(|_| AppendError::Unclear)?;
        }
        let mut state = self.lock();
        if !owns(&state) {
            return Err(AppendError::Deposed);
        }
        let log = state.logs.entry(shard).or_default();
        for (lobby, snapshot) in changed {
            match snapshot {
                Some(bytes) => _ = log.snapshots.insert(lobby, self.as_written(fence, &bytes)),
                None => _ = log.snapshots.remove(&lobby),
            }
        }
        Ok(())
    }

    pub(crate) async fn trim(&self, shard: Shard, through: EntryId) -> Result<(), Unavailable> {
        self.reachable("the journal")?;
        if let Some(disk) = &self.disk {
            disk.write(Op::Trim { shard, through }).await.map_err(|_| Unavailable("the journal's table"))?;
        }
        let mut state = self.lock();
        if let Some(log) = state.logs.get_mut(&shard) {
            while log.entries.front().is_some_and(|(id, _)| *id <= through) {
                log.entries.pop_front();
            }
        }
        Ok(())
    }
}

/// An append of a shard is on its way to the disk. It ends with its commit, or when it is given up before it was
/// queued.
struct Busy {
    shared: Arc<Shared>,
    shard: Shard,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.lock().logs.entry(self.shard).or_default().busy = false;
    }
}

impl Log {
    fn extend(&mut self, entries: Vec<(EntryId, Bytes)>) {
        self.top = entries.last().map_or(self.top, |(id, _)| *id);
        self.entries.extend(entries);
    }

    /// A planted fault: what was answered for was not written.
    pub(super) fn lose_last(&mut self, count: usize) {
        if count > 0 {
            self.entries.truncate(self.entries.len().saturating_sub(count));
            self.top = self.entries.back().map_or_else(EntryId::default, |(id, _)| *id);
        }
    }
}
