//! Finding lobbies: a query over the list that their owners publish. Each node reads the list at most twice a second,
//! however many players look for lobbies; no owner is asked.

use std::sync::Arc;
use std::time::Duration;

use mlms_cluster::view::LobbySummary;
use mlms_cluster::{Directory, Unavailable};
use mlms_protocol::command::Find;
use mlms_protocol::lobby::Settings;
use mlms_protocol::{Answer, ErrorCode, LobbyId, Refusal};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Lobbies of the list that are looked at; beyond it the last ones by id are not found.
const LISTED_MAX: usize = 20_000;
/// How old the list may be.
const AGE: Duration = Duration::from_millis(500);
/// Lobbies in one answer, and without a `limit`.
const LIMIT_MAX: u32 = 100;
const LIMIT: u32 = 20;

/// The list as this node last read it.
#[derive(Default)]
pub(crate) struct Index(Mutex<Option<(Instant, Arc<Vec<LobbySummary>>)>>);

impl Index {
    /// The list, read anew if it is old. Who comes meanwhile waits for the same reading.
    pub(crate) async fn list(&self, directory: &Directory) -> Result<Arc<Vec<LobbySummary>>, Unavailable> {
        let mut known = self.0.lock().await;
        if let Some((read, list)) = known.as_ref()
            && read.elapsed() < AGE
        {
            return Ok(Arc::clone(list));
        }
        let list = Arc::new(directory.lobbies(None, LISTED_MAX).await?);
        *known = Some((Instant::now(), Arc::clone(&list)));
        Ok(list)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// The fullest first.
    Members,
    /// The emptiest first.
    Free,
    Name,
    Lobby,
}

/// What a player looks for.
#[derive(Debug)]
pub(crate) struct Query {
    metadata: Map<String, Value>,
    name: Option<String>,
    free: u32,
    sort: Sort,
    cursor: Option<(String, String)>,
    limit: usize,
}

fn bad(text: &str) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, text)
}

impl Query {
    /// Reads the command's fields. In the filter, names that begin with `$` are about the lobby itself; all others
    /// are values of its metadata.
    pub(crate) fn read(find: &Find) -> Result<Query, Refusal> {
        let mut query =
            Query { metadata: Map::new(), name: None, free: 0, sort: Sort::Members, cursor: None, limit: 0 };
        for (name, value) in find.filter.iter().flatten() {
            match (name.as_str(), value) {
                ("$name", Value::String(begin)) => query.name = Some(begin.to_lowercase()),
                ("$free", Value::Number(free)) => {
                    let free = free.as_u64().and_then(|free| u32::try_from(free).ok());
                    query.free = free.ok_or_else(|| bad("`$free` is a number of places"))?;
                }
                ("$sort", Value::String(by)) => {
                    query.sort = match by.as_str() {
                        "members" => Sort::Members,
                        "free" => Sort::Free,
                        "name" => Sort::Name,
                        "lobby" => Sort::Lobby,
                        _ => return Err(bad("`$sort` is members, free, name or lobby")),
                    }
                }
                (special, _) if special.starts_with('$') => {
                    return Err(bad("a filter knows `$name`, `$free` and `$sort`"));
                }
                (name, value) => _ = query.metadata.insert(name.to_owned(), value.clone()),
            }
        }
        let limit = find.limit.unwrap_or(LIMIT);
        if limit == 0 || limit > LIMIT_MAX {
            return Err(bad("`limit` must be 1 to 100"));
        }
        query.limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if let Some(cursor) = &find.cursor {
            let (key, lobby) = cursor.rsplit_once(' ').ok_or_else(|| bad("`cursor` is not one of `find`"))?;
            query.cursor = Some((key.to_owned(), lobby.to_owned()));
        }
        Ok(query)
    }

    fn matches(&self, lobby: &LobbySummary) -> bool {
        free(lobby) >= self.free
            && self.name.as_ref().is_none_or(|begin| lobby.name.to_lowercase().starts_with(begin))
            && self.metadata.iter().all(|(name, value)| lobby.metadata.get(name) == Some(value))
    }

    fn key(&self, lobby: &LobbySummary) -> String {
        match self.sort {
            Sort::Members => format!("{:010}", u32::MAX - lobby.members),
            Sort::Free => format!("{:010}", u32::MAX - free(lobby)),
            Sort::Name => lobby.name.to_lowercase(),
            Sort::Lobby => String::new(),
        }
    }

    /// All that match, in their order.
    fn sorted<'a>(&self, list: &'a [LobbySummary]) -> Vec<(String, &'a LobbySummary)> {
        let mut found: Vec<_> =
            list.iter().filter(|lobby| self.matches(lobby)).map(|lobby| (self.key(lobby), lobby)).collect();
        found.sort_by(|a, b| (&a.0, &a.1.lobby).cmp(&(&b.0, &b.1.lobby)));
        found
    }

    pub(crate) fn answer(&self, list: &[LobbySummary]) -> Answer {
        let found = self.sorted(list);
        let begin = self.cursor.as_ref().map_or(0, |(key, lobby)| {
            found.partition_point(|(of, one)| {
                (of.as_str(), one.lobby.as_str()) <= (key.as_str(), lobby.as_str())
            })
        });
        let page = &found[begin..];
        let next = (page.len() > self.limit).then(|| {
            let (key, last) = &page[self.limit - 1];
            format!("{key} {}", last.lobby)
        });
        let shown = page.iter().take(self.limit).map(|(_, lobby)| lobby);
        // A line of plain values is always an object.
        let lobbies = shown.filter_map(|lobby| serde_json::to_value(lobby).ok()).collect();
        Answer::Found { lobbies, next }
    }

    /// Lobbies that somebody may come into at once, the best first.
    pub(crate) fn candidates(&self, list: &[LobbySummary]) -> Vec<LobbyId> {
        let open =
            |lobby: &LobbySummary| free(lobby) > 0 && lobby.joinable && !lobby.locked && !lobby.invite_only;
        let found = self.sorted(list);
        found.into_iter().filter(|(_, lobby)| open(lobby)).map(|(_, lobby)| lobby.lobby.clone()).collect()
    }
}

fn free(lobby: &LobbySummary) -> u32 {
    lobby.capacity.saturating_sub(lobby.members)
}

/// What a quick match creates when no lobby fits: lobbies of one kind with numbers, so that all who look for the same
/// at the same time meet in the same ones.
pub(crate) struct Quick {
    pub(crate) settings: Settings,
    kind: String,
}

impl Quick {
    pub(crate) fn read(quick: &Value, query: &Query) -> Result<Quick, Refusal> {
        let mut settings = match quick {
            Value::Bool(true) => Settings::default(),
            settings => Settings::from_command(settings.clone())
                .map_err(|why| Refusal::new(ErrorCode::BadRequest, format!("`quick` is not valid: {why}")))?,
        };
        for (name, value) in &query.metadata {
            settings.metadata.insert(name.clone(), value.clone());
        }
        let text = serde_json::to_vec(&settings).map_err(|_| bad("`quick` is not valid"))?;
        let digest = Sha256::digest(text);
        let number = digest.iter().take(8).fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
        Ok(Quick { settings, kind: format!("quick-{number:016x}") })
    }

    /// The lobbies of this kind that are not known to be full.
    pub(crate) fn places(&self, list: &[LobbySummary]) -> impl Iterator<Item = LobbyId> {
        let taken: Vec<_> = list
            .iter()
            .filter(|lobby| lobby.lobby.as_str().starts_with(&self.kind) && free(lobby) == 0)
            .map(|lobby| lobby.lobby.clone())
            .collect();
        let ids = (0_u32..).map_while(|number| LobbyId::new(&format!("{}-{number}", self.kind)).ok());
        ids.filter(move |id| !taken.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use mlms_protocol::lobby::Visibility;
    use serde_json::json;

    use super::*;

    fn list() -> Vec<LobbySummary> {
        let lobby = |id: &str, name: &str, members, capacity, map: &str| LobbySummary {
            lobby: LobbyId::new(id).unwrap(),
            name: name.to_owned(),
            members,
            capacity,
            visibility: Visibility::Public,
            metadata: json!({"map": map}).as_object().unwrap().clone(),
            locked: id == "d",
            invite_only: id == "e",
            joinable: id != "f",
        };
        vec![
            lobby("a", "Arena", 1, 4, "ice"),
            lobby("b", "arcade", 3, 4, "ice"),
            lobby("c", "Cave", 4, 4, "ice"),
            lobby("d", "Den", 2, 4, "ice"),
            lobby("e", "Eyrie", 2, 4, "ice"),
            lobby("f", "Fort", 2, 4, "ice"),
            lobby("g", "Glade", 3, 9, "sand"),
        ]
    }

    fn find(
        filter: Value,
        cursor: Option<&str>,
        limit: Option<u32>,
    ) -> Result<(String, Option<String>), Refusal> {
        let filter = filter.as_object().cloned();
        let query = Query::read(&Find { filter, cursor: cursor.map(str::to_owned), limit, quick: None })?;
        let Answer::Found { lobbies, next } = query.answer(&list()) else { panic!("no list") };
        Ok((lobbies.iter().filter_map(|lobby| lobby["lobby"].as_str()).collect(), next))
    }

    #[test]
    fn a_filter_looks_at_metadata_places_and_names() {
        for (filter, expected) in [
            (json!({}), "cbgdefa"),
            (json!({"map": "ice"}), "cbdefa"),
            (json!({"map": "ice", "$free": 1}), "bdefa"),
            (json!({"map": "ice", "$free": 3}), "a"),
            (json!({"$name": "AR"}), "ba"),
            (json!({"$sort": "lobby"}), "abcdefg"),
            (json!({"$sort": "name"}), "bacdefg"),
            (json!({"$sort": "free"}), "gadefbc"),
            (json!({"mode": null}), ""),
        ] {
            assert_eq!(find(filter.clone(), None, None).unwrap().0, expected, "{filter}");
        }
        for filter in [json!({"$free": -1}), json!({"$sort": "age"}), json!({"$name": 1}), json!({"$x": 1})] {
            assert_eq!(find(filter.clone(), None, None).unwrap_err().code, ErrorCode::BadRequest, "{filter}");
        }
        assert!(find(json!({}), None, Some(0)).is_err() && find(json!({}), None, Some(101)).is_err());
        assert!(find(json!({}), Some("nonsense"), None).is_err());
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        for sort in ["members", "free", "name", "lobby"] {
            let (all, _) = find(json!({"$sort": sort}), None, None).unwrap();
            let (mut seen, mut cursor) = (String::new(), None);
            loop {
                let (page, next) = find(json!({"$sort": sort}), cursor.as_deref(), Some(2)).unwrap();
                seen += &page;
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "{sort}");
        }
    }

    #[test]
    fn a_quick_match_goes_where_one_may_go_at_once() {
        let query = |filter: Value| {
            Query::read(&Find { filter: filter.as_object().cloned(), ..Find::default() }).unwrap()
        };
        let ice = query(json!({"map": "ice"}));
        let ids: Vec<_> = ice.candidates(&list()).iter().map(ToString::to_string).collect();
        assert_eq!(ids, ["b", "a"]);
        let quick = Quick::read(&json!({"capacity": 4}), &ice).unwrap();
        assert_eq!(quick.settings.metadata["map"], "ice");
        let other = Quick::read(&json!({"capacity": 4}), &query(json!({"map": "sand"}))).unwrap();
        let first = |quick: &Quick, list: &[LobbySummary]| quick.places(list).next().unwrap();
        assert_ne!(first(&quick, &[]), first(&other, &[]));
        let mut full = list();
        full[2].lobby = first(&quick, &[]);
        assert_ne!(first(&quick, &full), first(&quick, &[]));
        assert!(Quick::read(&json!({"colour": 1}), &ice).is_err());
    }
}
