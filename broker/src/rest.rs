//! Ways in: a ticket for a connection of the client's own, tokens for guests; and how the service is.

use std::net::IpAddr;
use std::time::Instant;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Response, StatusCode};
use mlms_cluster::view::{NodeRecord, NodeState};
use mlms_process::health::{Condition, State};
use mlms_protocol::{LobbyId, NodeName, UserId};
use serde::{Deserialize, Serialize};

use crate::address::AddressKey;
use crate::api::{Call, Fault, Reply};
use crate::edge::{Body, Edge};
use crate::guests::GuestRequest;
use crate::refusal::Refusal;
use crate::{passenger, probes};

#[derive(Deserialize)]
struct ConnectRequest {
    lobby: Option<String>,
}

#[derive(Serialize)]
struct ConnectAnswer {
    url: String,
    ticket: String,
    /// Unix milliseconds.
    expires_at: u64,
}

/// `POST /v1/connect`: where to open the WebSocket, and with which ticket. The url is a node's own where that node
/// has one, else this broker's.
pub(crate) async fn connect(call: &Call<'_>) -> Result<Reply, Fault> {
    let (edge, claims, headers) = (call.edge, call.claims()?, &call.head.headers);
    if edge.is_draining() {
        return Err(Refusal::Draining.into());
    }
    let asked: ConnectRequest = call.body()?;
    let lobby = asked.lobby.map(|lobby| LobbyId::new(&lobby).map_err(|_| Refusal::BadLobby)).transpose()?;
    let node = edge.first_node_for(&claims.sub, lobby.as_ref()).ok_or(Refusal::NoNode)?;
    let address = edge.client_address(call.peer, headers);
    let url = match &node.public_url {
        Some(url) => socket_url(url),
        None => own_url(edge, headers, call.peer).ok_or(Refusal::BadHost)?,
    };
    let ticket = passenger::ticket(claims, address, lobby, node.name);
    edge.metrics.tickets.inc();
    let answer =
        ConnectAnswer { url, ticket: edge.keys.mint(&ticket), expires_at: ticket.exp.saturating_mul(1_000) };
    Ok(Reply::ok(&answer))
}

/// A node's public url with the path of its WebSocket, unless the operator gave one.
fn socket_url(public_url: &str) -> String {
    let rest = public_url.split_once("://").map_or(public_url, |(_, rest)| rest);
    match rest.split_once('/') {
        None => format!("{public_url}/ws"),
        Some((_, "")) => format!("{public_url}ws"),
        Some(_) => public_url.to_owned(),
    }
}

/// This broker's url as the client sees it: the host that it named, and TLS where a trusted proxy says so.
fn own_url(edge: &Edge, headers: &HeaderMap, peer: IpAddr) -> Option<String> {
    let host: Authority = headers.get(header::HOST)?.to_str().ok()?.parse().ok()?;
    let proto = headers.get("x-forwarded-proto").filter(|_| edge.is_trusted_proxy(peer));
    let scheme =
        if proto.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https")) { "wss" } else { "ws" };
    Some(format!("{scheme}://{host}/ws"))
}

#[derive(Serialize)]
struct GuestAnswer {
    token: String,
    user: UserId,
    name: Option<String>,
    /// Unix milliseconds.
    expires_at: u64,
}

/// `POST /v1/guests`: a token for somebody without one.
pub(crate) fn guest(call: &Call<'_>) -> Result<Reply, Fault> {
    let edge = call.edge;
    let minter = edge.minter.as_ref().ok_or(Refusal::NotFound)?;
    if edge.is_draining() {
        return Err(Refusal::Draining.into());
    }
    let address = edge.client_address(call.peer, &call.head.headers);
    if !edge.guest_rate.admit(AddressKey::from(address), Instant::now()) {
        return Err(Refusal::TooManyGuests.into());
    }
    let asked: GuestRequest = call.body()?;
    let minted = minter.mint_guest(asked.name()?, edge.config.guest_ttl);
    edge.metrics.guests.inc();
    let answer = GuestAnswer {
        token: minted.token,
        user: minted.user,
        name: minted.name,
        expires_at: minted.expires_at.saturating_mul(1_000),
    };
    Ok(Reply::created(&answer))
}

#[derive(Serialize)]
struct HealthAnswer {
    state: State,
    ready: bool,
    draining: bool,
    services: std::collections::BTreeMap<String, Condition>,
    nodes: Vec<NodeAnswer>,
}

#[derive(Serialize)]
struct NodeAnswer {
    name: NodeName,
    state: NodeState,
    sessions: u32,
    lobbies: u32,
    shards: u32,
    /// How it answers, and the worst of the services behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Condition>,
}

/// `GET /health`: every service and every node with its state, its latency and the cause where it is not well. What is
/// told is about a second old at most. 503 only when the service as a whole is down.
pub(crate) async fn health(edge: &Edge) -> Response<Body> {
    edge.probes.fresh().await;
    let (state, services) = (edge.health.overall(), edge.health.report());
    let node = |node: &NodeRecord| NodeAnswer {
        name: node.name.clone(),
        state: node.state,
        sessions: node.load.sessions,
        lobbies: node.load.lobbies,
        shards: node.load.shards,
        health: services.get(&probes::entry(&node.name)).cloned(),
    };
    let nodes = edge.directory.view().nodes.values().map(node).collect();
    let (ready, draining) = (edge.readiness.is_ready(), edge.is_draining());
    let answer = HealthAnswer { state, ready, draining, nodes, services };
    let status = if state == State::Down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    json(status, &answer)
}

fn json<T: Serialize>(status: StatusCode, answer: &T) -> Response<Body> {
    let body = serde_json::to_vec(answer).expect("answers of plain fields serialize");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_without_a_path_gets_that_of_the_socket() {
        assert_eq!(socket_url("wss://n1.example.com"), "wss://n1.example.com/ws");
        assert_eq!(socket_url("ws://n1.example.com:8090/"), "ws://n1.example.com:8090/ws");
        assert_eq!(socket_url("wss://example.com/n1/ws"), "wss://example.com/n1/ws");
    }
}
