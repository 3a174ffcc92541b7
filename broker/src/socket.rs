//! The road of a WebSocket: checks in order, a node by placement, the tunnel. Everything that can be refused is
//! refused before the 101.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use mlms_process::http;
use mlms_process::trunk::Stream;
use mlms_protocol::{LobbyId, NodeName, SessionId};
use tokio::runtime::Handle;

use crate::address::{AddressKey, Place};
use crate::carriers::Carrier;
use crate::credential;
use crate::edge::{Body, Edge};
use crate::handshake::{self, Handshake, PATIENCE, Subprotocol};
use crate::metrics::Outcome;
use crate::node::{self, NodeRefusal};
use crate::passenger::{self, Passenger};
use crate::query::Query;
use crate::refusal::Refusal;
use crate::sessions::Listed;
use crate::tunnel::{self, End, Ending};

/// Nodes that are tried for one session.
const TRIES_MAX: usize = 3;
/// How long a handshake waits for its turn when many are under way.
const TURN_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to find a node that accepts; players' clients give up soon after.
const PLACING_PATIENCE: Duration = Duration::from_secs(10);

/// A session that a node has accepted.
struct Opened {
    session: SessionId,
    node_address: String,
    way: Way,
}

/// How a session's bytes reach its node.
enum Way {
    Trunk(Stream),
    /// Over a connection of its own: the node knows of no trunks.
    Alone(End),
}

/// What a connection counts as until it ends.
struct Held {
    _connection: Option<http::Held>,
    _place: Place,
    listed: Listed,
}

/// Answers a handshake.
pub(crate) async fn answer(
    edge: &Arc<Edge>,
    request: Request<Incoming>,
    lobby_in_path: Option<&str>,
    peer: IpAddr,
) -> Response<Body> {
    let started = Instant::now();
    let (outcome, response) = match open(edge, request, lobby_in_path, peer).await {
        Ok(answered) => answered,
        Err(refusal) => (Outcome::Refused(refusal), refusal.response()),
    };
    edge.metrics.handshake(outcome, started.elapsed());
    response
}

async fn open(
    edge: &Arc<Edge>,
    request: Request<Incoming>,
    lobby_in_path: Option<&str>,
    peer: IpAddr,
) -> Result<(Outcome, Response<Body>), Refusal> {
    let (mut head, _) = request.into_parts();
    let handshake = Handshake::read(&head)?;
    edge.check_origin(&head.headers)?;
    let query = Query::read(head.uri.query())?;
    let lobby = lobby_of(lobby_in_path, &query)?;
    let address = edge.client_address(peer, &head.headers);
    let passenger = identify(edge, &head, &query).await?;
    edge.check_ban(passenger.user())?;
    if edge.is_draining() {
        return Err(Refusal::Draining);
    }
    let place = edge.places.take(AddressKey::from(address)).ok_or(Refusal::TooManyConnections)?;
    let upgrade = head.extensions.remove::<OnUpgrade>().ok_or(Refusal::NotWebSocket)?;
    if handshake.subprotocol == Subprotocol::Unsupported {
        edge.tunnels.spawn(async move {
            handshake::close_unsupported(upgrade).await;
            drop(place);
        });
        return Ok((Outcome::UnsupportedSubprotocol, handshake.response()));
    }
    let carrier = edge.carriers.next();
    let opened = {
        let turn = tokio::time::timeout(TURN_PATIENCE, edge.handshakes.acquire()).await;
        let _turn = turn.map_err(|_| Refusal::Busy)?.expect("the semaphore is never closed");
        let placing = place_session(edge, carrier, passenger, address, lobby, &handshake);
        tokio::time::timeout(PLACING_PATIENCE, placing).await.unwrap_or(Err(Refusal::NodesSlow))?
    };
    tracing::debug!(session = %opened.session, %address, node = opened.node_address, "a session opens");
    let listed = edge.sessions.list(&opened.node_address, opened.session);
    // Listed first, then looked: a drain that began meanwhile either found it on the list or is seen here.
    if edge.is_draining() {
        return Err(Refusal::Draining);
    }
    let connection = head.extensions.remove::<http::Held>();
    let held = Held { _connection: connection, _place: place, listed };
    edge.tunnels.spawn(run(edge.clone(), carrier.runtime.clone(), upgrade, opened.way, held));
    Ok((Outcome::Accepted, handshake.response()))
}

fn lobby_of(in_path: Option<&str>, query: &Query) -> Result<Option<LobbyId>, Refusal> {
    let in_path = in_path.map(|text| LobbyId::new(text).map_err(|_| Refusal::BadLobby)).transpose()?;
    match (in_path, query.lobby.clone()) {
        (Some(path), Some(query)) if path != query => Err(Refusal::BadLobby),
        (path, query) => Ok(path.or(query)),
    }
}

async fn identify(edge: &Edge, head: &Parts, query: &Query) -> Result<Passenger, Refusal> {
    let token = credential::of_handshake(head, query, edge.config.token_in_query)?;
    Passenger::identify(token, &edge.keys, &edge.verifier).await
}

async fn place_session(
    edge: &Edge,
    carrier: &Carrier,
    passenger: Passenger,
    address: IpAddr,
    lobby: Option<LobbyId>,
    handshake: &Handshake,
) -> Result<Opened, Refusal> {
    match passenger {
        Passenger::User(claims) => {
            let nodes = edge.nodes_for(&claims.sub, lobby.as_ref());
            if nodes.is_empty() {
                return Err(Refusal::NoNode);
            }
            for (name, node_address) in nodes.into_iter().take(TRIES_MAX) {
                let ticket = passenger::ticket(&claims, address, lobby.clone(), name.clone());
                let token = edge.keys.mint(&ticket);
                match open_session(edge, carrier, &node_address, &token, handshake).await {
                    Ok(way) => return Ok(Opened { session: ticket.session, node_address, way }),
                    Err(refusal) => {
                        edge.metrics.node_failed(&refusal);
                        report(&name, &refusal);
                        pass_on(&refusal)?;
                    }
                }
            }
            Err(Refusal::NodesFailed)
        }
        Passenger::Ticketed(ticket) => {
            if lobby.is_some() && lobby != ticket.lobby {
                return Err(Refusal::LobbyOfAnotherTicket);
            }
            let node_address = edge.address_of(&ticket.node).ok_or(Refusal::TicketNodeGone)?;
            // Minted again from the same fields: the same session, so the node still takes it once only.
            let token = edge.keys.mint(&ticket);
            let way = open_session(edge, carrier, &node_address, &token, handshake).await;
            way.map(|way| Opened { session: ticket.session.clone(), node_address, way }).map_err(|refusal| {
                edge.metrics.node_failed(&refusal);
                match refusal {
                    NodeRefusal::Ticket => Refusal::TicketUsed,
                    other => pass_on(&other).err().unwrap_or(Refusal::TicketNodeGone),
                }
            })
        }
    }
}

/// Opens a session on the node's trunk, if it has one.
async fn open_session(
    edge: &Edge,
    carrier: &Carrier,
    node_address: &str,
    token: &str,
    handshake: &Handshake,
) -> Result<Way, NodeRefusal> {
    match carrier.trunks.to(node_address, &edge.keys).await? {
        Some(trunk) => Ok(Way::Trunk(node::open_stream(&trunk, token, handshake).await?)),
        None => Ok(Way::Alone(node::open_session(node_address, token, handshake).await?)),
    }
}

/// What a node says about the user holds for every node; anything else is worth a try with the next.
fn pass_on(refusal: &NodeRefusal) -> Result<(), Refusal> {
    match refusal {
        NodeRefusal::Forbidden => Err(Refusal::ForbiddenByNode),
        NodeRefusal::Limited => Err(Refusal::TooManyByNode),
        _ => Ok(()),
    }
}

fn report(node: &NodeName, refusal: &NodeRefusal) {
    match refusal {
        // Fresh tickets are refused: the cluster keys or the clocks differ, and no player gets in.
        NodeRefusal::Ticket => tracing::error!(%node, "the node does not take this broker's tickets"),
        NodeRefusal::Unavailable | NodeRefusal::Forbidden | NodeRefusal::Limited => {
            tracing::debug!(%node, %refusal, "the node does not take a session");
        }
        _ => tracing::warn!(%node, %refusal, "a node fails; the next one is tried"),
    }
}

/// Carries a session's bytes from the 101 to the end, on a thread of the carriers'.
async fn run(edge: Arc<Edge>, by: Handle, upgrade: OnUpgrade, way: Way, held: Held) {
    let client = match tokio::time::timeout(PATIENCE, handshake::raw(upgrade)).await {
        Ok(Some(client)) if client.stream.set_nodelay(true).is_ok() => client.taken_over(&by),
        _ => return end(&edge, Ending::NeverOpened, held),
    };
    let way = match way {
        Way::Alone(node) => node.taken_over(&by).map(Way::Alone),
        on_trunk @ Way::Trunk(_) => Ok(on_trunk),
    };
    let (Ok(client), Ok(way)) = (client, way) else { return end(&edge, Ending::NeverOpened, held) };
    let tunnel = carry(Arc::clone(&edge), client, way, held);
    edge.tunnels.spawn_on(tunnel, &by);
}

#[expect(clippy::manual_async_fn, reason = "an async fn holds room for its arguments twice, for each player")]
fn carry(edge: Arc<Edge>, client: End, way: Way, held: Held) -> impl Future<Output = ()> + Send {
    async move {
        let open = edge.metrics.tunnel_opened();
        let cut = edge.cut.child_token();
        let ending = match way {
            Way::Trunk(node) => tunnel::carry_on_trunk(client, node, &edge.metrics, cut).await,
            // Boxed: as large as it is, it would be room in every player's task.
            Way::Alone(node) => Box::pin(tunnel::carry(client, node, &edge.metrics, cut)).await,
        };
        drop(open);
        end(&edge, ending, held);
    }
}

fn end(edge: &Edge, ending: Ending, held: Held) {
    edge.metrics.tunnel_ended(ending);
    tracing::debug!(session = %held.listed.session(), ?ending, "a session's tunnel ended");
    drop(held);
}
