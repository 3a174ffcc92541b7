//! Bans, audit, events by topic, and forgetting, in memory.

use std::collections::BTreeMap;

use mlms_protocol::{LobbyEvent, LobbyId, Seq, UserId};
use serde_json::Value;

use super::{Memory, count};
use crate::audit::{AuditEntry, Topic};
use crate::bans::{BansMark, ServiceBan};
use crate::forgetting::quoted;
use crate::report::FiledReport;

/// Entries of the audit that are kept; the oldest are forgotten.
const AUDIT_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Service {
    bans: BTreeMap<UserId, ServiceBan>,
    audit: BTreeMap<String, AuditEntry>,
}

impl Memory {
    pub(crate) fn set_ban(&self, ban: &ServiceBan) {
        self.tables().service.bans.insert(ban.user.clone(), ban.clone());
    }

    pub(crate) fn lift_ban(&self, user: &UserId) -> bool {
        self.tables().service.bans.remove(user).is_some()
    }

    pub(crate) fn ban(&self, user: &UserId) -> Option<ServiceBan> {
        self.tables().service.bans.get(user).cloned()
    }

    pub(crate) fn bans(&self, after: Option<&UserId>, limit: u32) -> Vec<ServiceBan> {
        let tables = self.tables();
        let bans = tables.service.bans.values().filter(|ban| after.is_none_or(|after| ban.user > *after));
        bans.take(count(limit)).cloned().collect()
    }

    pub(crate) fn bans_mark(&self) -> BansMark {
        let tables = self.tables();
        let newest = tables.service.bans.values().map(|ban| ban.at.0).max().unwrap_or(0);
        BansMark(tables.service.bans.len() as u64, newest)
    }

    pub(crate) fn add_audit(&self, entry: &AuditEntry) {
        let audit = &mut self.tables().service.audit;
        audit.insert(entry.id.clone(), entry.clone());
        if audit.len() > AUDIT_MAX {
            audit.pop_first();
        }
    }

    pub(crate) fn audit(&self, user: Option<&UserId>, before: Option<&str>, limit: u32) -> Vec<AuditEntry> {
        let tables = self.tables();
        let entries = tables.service.audit.values().rev();
        let entries = entries.filter(|entry| before.is_none_or(|before| entry.id.as_str() < before));
        let entries = entries.filter(|entry| user.is_none_or(|user| entry.user == *user));
        entries.take(count(limit)).cloned().collect()
    }

    pub(crate) fn events_about(
        &self,
        lobby: &LobbyId,
        topic: Topic,
        before: Seq,
        limit: u32,
    ) -> Vec<LobbyEvent> {
        let tables = self.tables();
        let Some(events) = tables.lobbies.get(lobby) else { return Vec::new() };
        let about = events.range(..before).rev().filter(|(_, event)| topic.holds(event.change.name()));
        about.take(count(limit)).map(|(_, event)| LobbyEvent::clone(event)).collect()
    }

    pub(crate) fn all_of(&self, lobby: &LobbyId) -> Vec<LobbyEvent> {
        let tables = self.tables();
        let events = tables.lobbies.get(lobby).into_iter().flat_map(|events| events.values());
        events.map(|event| LobbyEvent::clone(event)).collect()
    }

    pub(crate) fn forget(&self, user: &UserId, alias: &UserId, events: &[LobbyEvent]) {
        for event in events {
            self.replace_body(event.clone());
        }
        let mut tables = self.tables();
        tables.statistics.remove(user);
        tables.awards.retain(|(of, _), _| of != user);
        tables.blocks.remove(user);
        tables.blocks.values_mut().for_each(|list| list.retain(|(_, blocked)| blocked != user));
        let is_about = |report: &FiledReport| report.user.as_ref() == Some(user) || report.by == *user;
        tables.reports.retain(|_, report| !is_about(report));
        let quoted = quoted(user);
        for report in
            tables.reports.values_mut().filter(|report| report.context.to_string().contains(&quoted))
        {
            report.context = Value::Array(Vec::new());
        }
        if let Some(ban) = tables.service.bans.get_mut(user) {
            ban.reason = None;
        }
        for entry in tables.service.audit.values_mut() {
            if entry.user == *user {
                (entry.user, entry.detail) = (alias.clone(), None);
            }
            if entry.by == *user {
                entry.by = alias.clone();
            }
        }
    }
}
