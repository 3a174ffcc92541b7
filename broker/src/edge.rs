//! The edge's shared state, and the one dispatch table of the public listener.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use mlms_cluster::Directory;
use mlms_cluster::view::NodeRecord;
use mlms_process::health::{Health, Readiness};
use mlms_process::jwt::{Minter, Verifier};
use mlms_process::shutdown::Shutdown;
use mlms_process::trace::Tracer;
use mlms_protocol::ticket::ClusterKeys;
use mlms_protocol::{LobbyId, NodeName, UserId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{self, Places};
use crate::config::BrokerConfig;
use crate::guests::GuestRate;
use crate::metrics::{Metrics, Route};
use crate::players::{self, StoreSlot};
use crate::refusal::Refusal;
use crate::sessions::Sessions;
use crate::{page, rest, socket, trace};

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
    pub(crate) health: Health,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    pub(crate) places: Arc<Places>,
    pub(crate) guest_rate: GuestRate,
    /// Turns for handshakes with nodes.
    pub(crate) handshakes: Semaphore,
    pub(crate) sessions: Arc<Sessions>,
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
        let answer = async |request| self.dispatch(request, peer).await;
        let mut response = trace::traced(&self.tracer, request, answer).await;
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if is_head {
            *response.body_mut() = Body::default();
        }
        response
    }

    async fn dispatch(self: &Arc<Self>, request: Request<Incoming>, peer: IpAddr) -> Response<Body> {
        let path = request.uri().path();
        if path == "/ws" {
            return socket::answer(self, request, None, peer).await;
        }
        if let Some(lobby) = path.strip_prefix("/lobbies/").and_then(|rest| rest.strip_suffix("/ws")) {
            let lobby = lobby.to_owned();
            return socket::answer(self, request, Some(&lobby), peer).await;
        }
        let (route, answer) = match path {
            "/v1/connect" => (Route::Connect, self.rest(request, peer, Route::Connect, "POST").await),
            "/v1/guests" => (Route::Guests, self.rest(request, peer, Route::Guests, "POST").await),
            "/v1/lobbies" => (Route::Lobbies, self.rest(request, peer, Route::Lobbies, "GET, HEAD").await),
            path if players::parse(path).is_some() => {
                (Route::Players, self.rest(request, peer, Route::Players, "GET, HEAD").await)
            }
            "/health" => (Route::Health, only_reading(&request).map(|()| rest::health(self))),
            path => match page::serve(path, request.headers()) {
                Some(file) => (Route::Page, only_reading(&request).map(|()| file)),
                None => (Route::Unknown, Err(Refusal::NotFound)),
            },
        };
        let response = answer.unwrap_or_else(|refusal| self.refuse(refusal));
        self.metrics.request(route, response.status());
        response
    }

    /// A request under `/v1`: pages of allowed origins may read the answer (CORS), those of others are refused.
    async fn rest(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        route: Route,
        allow: &'static str,
    ) -> Result<Response<Body>, Refusal> {
        let (head, body) = request.into_parts();
        self.check_origin(&head.headers)?;
        let answer = match (route, &head.method) {
            (_, &Method::OPTIONS) => Ok(preflight(allow)),
            (Route::Connect, &Method::POST) => rest::connect(self, &head, body, peer).await,
            (Route::Guests, &Method::POST) => rest::guests(self, &head, body, peer).await,
            (Route::Lobbies, &Method::GET | &Method::HEAD) => rest::lobbies(self, &head).await,
            (Route::Players, &Method::GET | &Method::HEAD) => players::answer(self, &head).await,
            _ => Err(Refusal::Method(allow)),
        };
        let mut response = answer.unwrap_or_else(|refusal| self.refuse(refusal));
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = head.headers.get(header::ORIGIN) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        }
        Ok(response)
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

fn only_reading(request: &Request<Incoming>) -> Result<(), Refusal> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::Method("GET, HEAD")),
    }
}

fn preflight(allow: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(allow));
    let allowed = HeaderValue::from_static("authorization, content-type");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}
