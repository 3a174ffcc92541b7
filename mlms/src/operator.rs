//! What an operator asks a running process on its admin listener: where a lobby is served, what its nodes do,
//! and to stop.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use mlms_cluster::View;
use mlms_cluster::view::NodeState;
use mlms_lobby_node::{NodeStatus, Observer};
use mlms_process::{Live, Shutdown};
use mlms_protocol::LobbyId;
use mlms_protocol::placement::shard_of;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// What a process knows of the cluster. Not the directory itself: the listener outlives it.
pub(crate) type Known = watch::Receiver<Arc<View>>;

/// The routes of every serving role. Without a cluster, and before it is there, nothing is known of lobbies.
pub(crate) fn routes(known: Arc<OnceLock<Known>>, shutdown: Shutdown) -> Router {
    let stopping = Router::new().route("/admin/drain", post(drain)).with_state(shutdown);
    stopping.merge(Router::new().route("/debug/route", get(route)).with_state(known))
}

/// The lobby nodes of this process, without keeping them alive.
#[derive(Clone, Default)]
pub(crate) struct Observed(Arc<Mutex<Vec<Observer>>>);

impl Observed {
    fn lock(&self) -> MutexGuard<'_, Vec<Observer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, node: Observer) {
        self.lock().push(node);
    }
}

/// What the process's lobby nodes do at the moment: their shards, moves, links and lags.
pub(crate) fn nodes(observed: Observed) -> Router {
    Router::new().route("/debug/node", get(node)).with_state(observed)
}

async fn node(State(observed): State<Observed>) -> Response {
    let observers = observed.lock().clone();
    let mut nodes: Vec<NodeStatus> = Vec::new();
    for observer in observers {
        nodes.extend(observer.status().await);
    }
    if nodes.is_empty() {
        let error = "no lobby node runs in this process";
        return (StatusCode::NOT_FOUND, Json(serde_json::json!({ "error": error }))).into_response();
    }
    Json(serde_json::json!({ "nodes": nodes })).into_response()
}

/// The settings in force, as a file, secrets hidden.
pub(crate) fn config(live: Live) -> Router {
    Router::new().route("/admin/config", get(async move || live.page()))
}

/// Begins to stop, as a SIGTERM does.
async fn drain(State(shutdown): State<Shutdown>) -> Response {
    tracing::info!("asked to drain");
    shutdown.begin();
    (StatusCode::ACCEPTED, Json(serde_json::json!({ "draining": true }))).into_response()
}

#[derive(Deserialize)]
struct Asked {
    lobby: String,
}

async fn route(
    State(known): State<Arc<OnceLock<Known>>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let Some(known) = known.get() else {
        let error = "this process knows nothing of lobbies";
        return (StatusCode::NOT_FOUND, Json(serde_json::json!({ "error": error }))).into_response();
    };
    let lobby = asked.map_err(|_| "name a lobby: ?lobby=<id>".to_owned());
    let lobby = lobby.and_then(|Query(asked)| LobbyId::new(&asked.lobby).map_err(|error| error.to_string()));
    match lobby {
        Ok(lobby) => Json(Route::of(&known.borrow(), &lobby)).into_response(),
        Err(message) => {
            (StatusCode::BAD_REQUEST, Json(serde_json::json!({ "error": message }))).into_response()
        }
    }
}

/// Where this process sends whoever wants a lobby.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Route {
    lobby: String,
    shard: u16,
    /// None: nobody is there to serve it.
    node: Option<String>,
    /// Of the last ownership; none: the shard was never claimed.
    epoch: Option<u64>,
    why: String,
}

impl Route {
    fn of(view: &View, lobby: &LobbyId) -> Route {
        let shard = shard_of(lobby);
        let record = view.record(shard);
        let heir = view.heir(shard).map(|node| node.name.to_string());
        let (node, why) = match (record, view.owner(shard)) {
            (Some(record), Some(owner)) if owner.state == NodeState::Draining => {
                (Some(record.node.to_string()), format!("{} owns it, and is draining", record.node))
            }
            (Some(record), Some(_)) => (Some(record.node.to_string()), format!("{} owns it", record.node)),
            (Some(record), None) => {
                let gone = format!("{} owned it, and its lease is gone", record.node);
                let then =
                    heir.as_ref().map_or("no node is ready".to_owned(), |heir| format!("{heir} claims it"));
                (heir, format!("{gone}; {then}"))
            }
            (None, _) => match heir {
                Some(heir) => {
                    (Some(heir.clone()), format!("nobody owned it yet; {heir} claims it on demand"))
                }
                None => (None, "nobody owned it yet, and no node is ready".to_owned()),
            },
        };
        let epoch = record.map(|record| record.epoch.0);
        Route { lobby: lobby.to_string(), shard: shard.0, node, epoch, why }
    }
}

#[cfg(test)]
mod tests {
    use mlms_cluster::view::{NodeLoad, NodeRecord, ShardRecord};
    use mlms_protocol::{Epoch, Incarnation, NodeName};

    use super::*;

    #[test]
    fn a_route_says_who_serves_a_lobby_and_why() {
        let lobby = LobbyId::new("lounge").unwrap();
        let shard = usize::from(shard_of(&lobby).0);
        let mut view = View::empty();
        let mut check = |change: &dyn Fn(&mut View), node: Option<&str>, why: &str| {
            change(&mut view);
            let route = Route::of(&view, &lobby);
            assert_eq!(route.node.as_deref(), node, "{route:?}");
            assert!(route.why.contains(why), "{route:?}");
        };
        let name = |name: &str| NodeName::new(name).unwrap();
        let add = |node: &str, state: NodeState| {
            let record = NodeRecord {
                name: name(node),
                incarnation: Incarnation(1),
                address: "a:1".to_owned(),
                public_url: None,
                state,
                load: NodeLoad::default(),
            };
            move |view: &mut View| _ = view.nodes.insert(record.name.clone(), record.clone())
        };
        check(&|_| {}, None, "no node is ready");
        check(&add("a", NodeState::Ready), Some("a"), "on demand");
        let owned = ShardRecord { node: name("b"), incarnation: Incarnation(1), epoch: Epoch(7) };
        check(
            &|view| view.shards[shard] = Some(owned.clone()),
            Some("a"),
            "b owned it, and its lease is gone; a",
        );
        check(&add("b", NodeState::Ready), Some("b"), "b owns it");
        check(&add("b", NodeState::Draining), Some("b"), "is draining");
        assert_eq!(Route::of(&view, &lobby).epoch, Some(7));
    }
}
