//! The edge's shared state, and the one dispatch table of the public listener.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, Version};
use mlms_cluster::Directory;
use mlms_cluster::view::NodeRecord;
use mlms_process::health::{Health, Readiness};
use mlms_process::jwt::{Minter, Verifier};
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::Tracer;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{LobbyId, NodeName, UserId};
use mlms_store::BanList;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{self, Places};
use crate::api::{Created, UserRate};
use crate::carriers::Carriers;
use crate::config::BrokerConfig;
use crate::guests::GuestRate;
use crate::metrics::{Metrics, Route};
use crate::passenger::unix_millis;
use crate::players::StoreSlot;
use crate::probes::Probes;
use crate::refusal::Refusal;
use crate::sessions::Sessions;
use crate::{api, page, rest, socket, trace};

/// Every answer fits in memory.
pub(crate) type Body = Full<Bytes>;

/// What all requests of one broker share. It keeps no state that another broker would have to know.
pub(crate) struct Edge {
    pub(crate) config: BrokerConfig,
    pub(crate) directory: Directory,
    pub(crate) verifier: Verifier,
    pub(crate) tracer: Tracer,
    /// Mints tokens for guests, where that is allowed.
    pub(crate) minter: Option<Minter>,
    pub(crate) keys: ClusterKeys,
    /// What players have done, where there is a database.
    pub(crate) players: Option<StoreSlot>,
    /// Who is kept out of the whole service; empty without a database.
    pub(crate) bans: BanList,
    pub(crate) health: Health,
    /// Finds out how the services around are.
    pub(crate) probes: Probes,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) places: Arc<Places>,
    pub(crate) guest_rate: GuestRate,
    /// The lobbies that callers have created by name.
    pub(crate) created: Created,
    /// How many requests each user may make.
    pub(crate) user_rate: UserRate,
    /// Turns for handshakes with nodes.
    pub(crate) handshakes: Semaphore,
    pub(crate) sessions: Arc<Sessions>,
    /// Where tunnels run.
    pub(crate) carriers: Carriers,
    /// Owns every upgraded connection's task.
    pub(crate) tunnels: TaskTracker,
    pub(crate) shutdown: Shutdown,
    /// Ends all tunnels at once.
    pub(crate) cut: CancellationToken,
}

impl Edge {
    /// Answers one request.
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let is_head = request.method() == Method::HEAD;
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let number = api::number(request.headers());
        let answer = async |request| self.dispatch(request, peer).await;
        let mut response = trace::traced(&self.tracer, request, answer).await;
        let (status, request) = (response.status().as_u16(), number.to_str().unwrap_or_default());
        tracing::debug!(%method, path, status, request, "answered");
        let headers = response.headers_mut();
        headers.insert(api::REQUEST_ID, number);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if is_head {
            *response.body_mut() = Body::default();
        }
        response
    }

    async fn dispatch(self: &Arc<Self>, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        if !names_one_host(&request) {
            return self.refuse(Refusal::BadHost);
        }
        let path = request.uri().path();
        // Boxed: a page's request needs no room for a handshake.
        if path == "/ws" {
            return Box::pin(socket::answer(self, request, None, peer)).await;
        }
        if let Some(lobby) = path.strip_prefix("/lobbies/").and_then(|rest| rest.strip_suffix("/ws")) {
            let lobby = lobby.to_owned();
            return Box::pin(socket::answer(self, request, Some(&lobby), peer)).await;
        }
        if path.starts_with("/v1/") {
            let (route, response) = api::answer(self, request, peer).await;
            self.metrics.request(route, response.status());
            return response;
        }
        let (route, answer) = match path {
            "/health" => match only_reading(&request) {
                Ok(()) => (Route::Health, Ok(rest::health(self).await)),
                Err(refusal) => (Route::Health, Err(refusal)),
            },
            path => {
                let headers = request.headers();
                match api::document(path, headers).or_else(|| page::serve(path, headers)) {
                    Some(file) => (Route::Page, only_reading(&request).map(|()| file)),
                    None => (Route::Unknown, Err(Refusal::NotFound)),
                }
            }
        };
        let response = answer.unwrap_or_else(|refusal| self.refuse(refusal));
        self.metrics.request(route, response.status());
        response
    }

    fn refuse(&self, refusal: Refusal) -> Response<Body> {
        self.metrics.refused(refusal);
        refusal.response()
    }

    /// Refuses pages of foreign origins.
    pub(crate) fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        // An origin that is no text is nobody's.
        let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or("\u{fffd}"));
        let allowed = self.config.allowed_origins.allows(text(header::ORIGIN), text(header::HOST));
        if allowed { Ok(()) } else { Err(Refusal::Origin) }
    }

    /// Refuses users who are banned from the service.
    pub(crate) fn check_ban(&self, user: &UserId) -> Result<(), Refusal> {
        if self.bans.holds(user, unix_millis()) { Err(Refusal::Banned) } else { Ok(()) }
    }

    pub(crate) fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        address::client_address(peer, headers, &self.config.trusted_proxies)
    }

    pub(crate) fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        self.config.trusted_proxies.iter().any(|network| network.contains(peer))
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shutdown.is_draining()
    }

    /// Name and address of the ready nodes, in the order in which a session should try them.
    pub(crate) fn nodes_for(&self, user: &UserId, lobby: Option<&LobbyId>) -> Vec<(NodeName, String)> {
        let view = self.directory.view();
        let nodes = match lobby {
            Some(lobby) => view.nodes_for_lobby(lobby),
            None => view.nodes_for_user(user),
        };
        nodes.into_iter().map(|node| (node.name.clone(), node.address.clone())).collect()
    }

    /// The node that a session should try first.
    pub(crate) fn first_node_for(&self, user: &UserId, lobby: Option<&LobbyId>) -> Option<NodeRecord> {
        let view = self.directory.view();
        let nodes = match lobby {
            Some(lobby) => view.nodes_for_lobby(lobby),
            None => view.nodes_for_user(user),
        };
        nodes.first().map(|node| (*node).clone())
    }

    /// Where a node is reached, if it is there.
    pub(crate) fn address_of(&self, node: &NodeName) -> Option<String> {
        self.directory.view().nodes.get(node).map(|node| node.address.clone())
    }
}

/// RFC 9112, section 3.2: a request of HTTP/1.1 has exactly one `Host`. What a proxy in front may read in the other
/// one must not matter here.
fn names_one_host(request: &Request<Incoming>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    hosts == 1 || (hosts == 0 && request.version() == Version::HTTP_10)
}

fn only_reading(request: &Request<Incoming>) -> Result<(), Refusal> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::Method("GET, HEAD")),
    }
}
