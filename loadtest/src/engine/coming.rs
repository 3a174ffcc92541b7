//! How clients get their connections and lose them: tickets, handshakes, storms, and the way back.

use std::sync::atomic::Ordering;

use mio::Token;

use super::client::{Stage, What};
use super::socket::{Got, Socket};
use super::{Engine, Tick, is_to_others};
use crate::plan::Micros;
use crate::scenario::{Enter, Latency};
use crate::target::Target;
use crate::websocket::{Answer, JSON, MSGPACK, Opcode, Upgrade, write_frame};

/// Longest wait between two attempts.
const BACKOFF_MAX: Micros = 5_000_000;

/// A handshake without an answer is given up after this.
const PATIENCE: Micros = 30_000_000;

/// Urls of tickets whose addresses are remembered.
const NODES_MAX: usize = 1_000;

impl Engine {
    /// The plan wants a client.
    pub(super) fn come(&mut self, place: usize, at: Micros) {
        self.clients[place].is_wanted = true;
        self.schedule(place, at);
        let client = &mut self.clients[place];
        if matches!(client.stage, Stage::Off) && !client.is_refused {
            client.attempts = 0;
            self.begin(place, at);
        }
    }

    /// The plan sends a client home.
    pub(super) fn go(&mut self, place: usize) {
        let client = &mut self.clients[place];
        client.is_wanted = false;
        client.entering_since = None;
        self.close(place, 1000);
    }

    /// A client loses its connection by plan, and comes back at once.
    pub(super) fn storm(&mut self, place: usize, at: Micros) {
        let client = &mut self.clients[place];
        if client.is_refused || client.is_away || !client.is_wanted {
            return;
        }
        let was_in = client.stage.is_in();
        self.drop_connection(place);
        let client = &mut self.clients[place];
        client.attempts = 0;
        if was_in {
            (client.lost_at, client.is_lost_by_plan) = (Some(at), true);
        }
        self.begin(place, at);
    }

    /// Begins a connection that was to begin at `at`.
    pub(super) fn begin(&mut self, place: usize, at: Micros) {
        let client = &mut self.clients[place];
        client.begun = at;
        client.connection += 1;
        let connection = client.connection;
        self.dial(place, connection);
    }

    /// Opens the connection, or waits until another handshake is through.
    pub(super) fn dial(&mut self, place: usize, connection: u32) {
        let client = &self.clients[place];
        let is_wanted = client.is_wanted && !client.is_refused;
        if client.connection != connection || !is_wanted || !matches!(client.stage, Stage::Off) {
            return;
        }
        if self.in_flight >= self.generator.connects_in_flight {
            self.dials.push_back((place, connection));
            return;
        }
        // Where one target does not answer another may.
        let turn = client.number as usize + client.attempts as usize;
        let target = self.targets[turn % self.targets.len()].clone();
        let Some(credential) = client.credential.clone() else { return };
        let by_lobby = self.enters_by_lobby(place);
        let lobby = &self.lobbies[client.lobby].name;
        let stage = if self.scenario.clients.tickets {
            let body = if by_lobby { format!("{{\"lobby\":\"{lobby}\"}}") } else { "{}".to_owned() };
            let request = format!(
                "POST /v1/connect HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                target.authority,
                credential.token,
                body.len()
            );
            Stage::Ticket { request: request.into_bytes() }
        } else {
            let path = if by_lobby { format!("{}?lobby={lobby}", target.path) } else { target.path.clone() };
            self.upgrade(place, &target.authority, &path, &credential.token)
        };
        self.open(place, &target, stage);
    }

    /// The first time by `?lobby=`; afterwards with a resume.
    fn enters_by_lobby(&self, place: usize) -> bool {
        let client = &self.clients[place];
        self.scenario.clients.enter == Enter::Lobby && !client.has_come
    }

    fn upgrade(&mut self, place: usize, authority: &str, path: &str, bearer: &str) -> Stage {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.rng.next().to_le_bytes());
        nonce[8..].copy_from_slice(&self.rng.next().to_le_bytes());
        let protocol = if self.clients[place].is_msgpack { MSGPACK } else { JSON };
        Stage::Upgrade(Upgrade::new(authority, path, bearer, protocol, nonce))
    }

    fn open(&mut self, place: usize, target: &Target, stage: Stage) {
        let client = &mut self.clients[place];
        let source = self.sources.of(client.number);
        match Socket::open(target, &self.tls, source, client.is_slow, self.poll.registry(), Token(place)) {
            Ok(socket) => {
                client.socket = Some(socket);
                client.stage = stage;
                client.last_heard = self.now;
                self.in_flight += 1;
            }
            Err(error) => self.connect_failed(place, &format!("connect: {}", kind(&error)), None),
        }
    }

    /// The socket takes bytes, or the connection came about or did not.
    pub(super) fn writable(&mut self, place: usize) {
        let Some(client) = self.clients.get_mut(place) else { return };
        let Some(socket) = &mut client.socket else { return };
        if !socket.is_connected {
            match socket.finish_connecting() {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => {
                    let reason = format!("connect: {}", kind(&error));
                    return self.connect_failed(place, &reason, None);
                }
            }
            let request: &[u8] = match &client.stage {
                Stage::Ticket { request } => request,
                Stage::Upgrade(upgrade) => &upgrade.request,
                _ => &[],
            };
            if let Err(error) = socket.write(request) {
                let reason = format!("connect: {}", kind(&error));
                return self.connect_failed(place, &reason, None);
            }
        }
        if let Some(socket) = &mut self.clients[place].socket
            && let Err(error) = socket.flush()
        {
            self.lost(place, &format!("connection: {}", kind(&error)));
        }
    }

    /// The answer to a handshake; gives the bytes that it took, `None`: the rest is not for this connection.
    pub(super) fn answered(&mut self, place: usize, bytes: &[u8]) -> Option<usize> {
        let answer = match Answer::read(bytes) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Some(0),
            Err(reason) => {
                self.connect_failed(place, reason, None);
                return None;
            }
        };
        let retry_after = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
        match &self.clients[place].stage {
            Stage::Ticket { .. } => {
                let length =
                    answer.header("content-length").and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
                let Some(body) = bytes.get(answer.length..answer.length + length) else { return Some(0) };
                if answer.status / 100 != 2 {
                    self.connect_failed(place, &format!("ticket: http {}", answer.status), retry_after);
                    return None;
                }
                let body = body.to_vec();
                self.ticket(place, &body);
                None
            }
            Stage::Upgrade(upgrade) if upgrade.is_accepted(&answer) => {
                self.in_flight -= 1;
                self.connected += 1;
                self.next_dial();
                self.clients[place].stage = Stage::Greeting;
                Some(answer.length)
            }
            _ => {
                let status = answer.status;
                self.connect_failed(place, &format!("http {status}"), retry_after);
                if matches!(status, 400 | 401 | 403 | 404) {
                    self.clients[place].is_refused = true;
                }
                None
            }
        }
    }

    fn ticket(&mut self, place: usize, body: &[u8]) {
        let answer: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let (Some(url), Some(ticket)) = (answer["url"].as_str(), answer["ticket"].as_str()) else {
            return self.connect_failed(place, "ticket: neither url nor ticket", None);
        };
        let (base, query) =
            url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
        let Some(target) = self.node(base) else {
            return self.connect_failed(place, "ticket: its url leads nowhere", None);
        };
        let stage = self.upgrade(place, &target.authority, &format!("{}{query}", target.path), ticket);
        self.in_flight -= 1;
        self.clients[place].socket = None;
        self.open(place, &target, stage);
    }

    /// Where a ticket's url leads; names are looked up once, as that holds up everybody.
    fn node(&mut self, url: &str) -> Option<Target> {
        if let Some(target) = self.nodes.get(url) {
            return Some(target.clone());
        }
        let target = Target::resolve(url).ok()?;
        if self.nodes.len() >= NODES_MAX {
            self.nodes.clear();
        }
        self.nodes.insert(url.to_owned(), target.clone());
        Some(target)
    }

    fn connect_failed(&mut self, place: usize, reason: &str, retry_after: Option<u64>) {
        self.measure.counts.connect_failures += 1;
        self.measure.reason(reason.to_owned());
        if self.result.first_failure.is_none() {
            self.result.first_failure = Some(reason.to_owned());
        }
        self.drop_connection(place);
        let client = &mut self.clients[place];
        client.attempts += 1;
        if !client.is_wanted {
            return;
        }
        let base = retry_after.map_or(0, |seconds| seconds * 1_000_000);
        let bound = (100_000u64 << client.attempts.min(6)).min(BACKOFF_MAX);
        let wait = base + self.rng.below(bound);
        self.come_later(place, wait);
    }

    /// Dials anew after a time. When the connection was to begin stays what it is: a service that refuses for three
    /// seconds takes three seconds.
    fn come_later(&mut self, place: usize, wait: Micros) {
        let client = &mut self.clients[place];
        client.connection += 1;
        let connection = client.connection;
        self.arm(self.now + wait, place, Tick::Dial { connection });
    }

    fn next_dial(&mut self) {
        while self.in_flight < self.generator.connects_in_flight {
            let Some((place, connection)) = self.dials.pop_front() else { return };
            self.dial(place, connection);
        }
    }

    /// Lets go of the socket; what waits for replies waits no longer.
    pub(super) fn drop_connection(&mut self, place: usize) {
        self.degraded(place, false);
        let client = &mut self.clients[place];
        let stage = Stage::set(&mut client.stage, Stage::Off);
        let socket = client.socket.take();
        if stage.is_handshake() && socket.is_some() {
            self.in_flight -= 1;
        }
        drop(socket);
        if stage.is_open() {
            self.connected -= 1;
        }
        let client = &mut self.clients[place];
        let lobby = &mut self.lobbies[client.lobby];
        if stage.is_in() {
            self.joined -= 1;
            lobby.present -= 1;
        }
        lobby.gone(&mut client.member, client.number);
        client.connection += 1;
        client.left_at = None;
        client.unordered_to = client.said;
        // Unanswered messages: the durable ones are sent again, the others may or may not have happened.
        let mut again: Vec<_> = client.retries.drain(..).map(|(_, message)| message).collect();
        for pending in client.pending.drain(..) {
            let message = match pending.what {
                What::Send(message) => message,
                What::Game(it) => {
                    client.moves.push(it);
                    continue;
                }
                _ => continue,
            };
            match super::sending::class(&self.scenario, message.stream) {
                crate::scenario::Class::Durable => again.push(message),
                crate::scenario::Class::Ordered => lobby.ordered_not_ok(message.key(), message.index),
                crate::scenario::Class::Ephemeral => {}
            }
        }
        again.sort_by_key(|message| message.intended);
        for message in again.into_iter().rev() {
            client.backlog.push_front(message);
        }
        self.next_dial();
    }

    /// The server or the network ended the connection.
    pub(super) fn lost(&mut self, place: usize, reason: &str) {
        let client = &self.clients[place];
        if client.stage.is_handshake() {
            return self.connect_failed(place, reason, None);
        }
        if matches!(client.stage, Stage::Off) {
            return;
        }
        let was_in = client.stage.is_in();
        self.measure.reason(reason.to_owned());
        // A slow reader is closed for good reason.
        let is_expected = self.clients[place].is_slow && reason == "close 4002";
        let is_moved = self.clients[place].bye.is_some() && matches!(reason, "close 4000" | "close 4001");
        if is_moved {
            self.measure.counts.moved_connections += 1;
        } else if !is_expected {
            self.measure.counts.lost_connections += 1;
        }
        self.drop_connection(place);
        let client = &mut self.clients[place];
        let code = reason.strip_prefix("close ").and_then(|code| code.parse::<u16>().ok());
        if code.is_some_and(|code| (4500..5000).contains(&code)) {
            client.is_refused = true;
            self.measure.counts.errors += 1;
            return;
        }
        if !client.is_wanted {
            return;
        }
        if was_in && !is_expected && client.lost_at.is_none() {
            client.lost_at = Some(self.now);
        }
        client.attempts = 0;
        let (least, most) = client.bye.take().unwrap_or((0, 500));
        let wait = 1_000 * (least + self.rng.below(most.saturating_sub(least) + 1));
        self.clients[place].begun = self.now + wait;
        self.come_later(place, wait);
    }

    /// Says goodbye and leaves.
    pub(super) fn close(&mut self, place: usize, code: u16) {
        let client = &mut self.clients[place];
        if let Some(socket) = &mut client.socket
            && client.stage.is_open()
        {
            self.frame.clear();
            write_frame(&mut self.frame, Opcode::Close, &code.to_be_bytes(), self.rng.next() as u32);
            // It is dropped in any case.
            let _ = socket.write(&self.frame);
        }
        self.drop_connection(place);
    }

    /// The position in the lobby is known: everything begins or goes on.
    pub(super) fn entered(&mut self, place: usize, join_begun: Option<Micros>) {
        let client = &mut self.clients[place];
        let was_in = client.stage.is_in();
        client.stage = Stage::In;
        client.is_away = false;
        client.left_at = None;
        client.attempts = 0;
        let lobby = &mut self.lobbies[client.lobby];
        lobby.entered(&mut client.member);
        if was_in {
            return;
        }
        self.joined += 1;
        lobby.present += 1;
        self.measure.counts.joins += 1;
        // What was refused first began then.
        let refused = client.entering_since.take();
        if let Some(begun) = refused.or(join_begun) {
            self.measure.time(Latency::Join, begun, self.now);
        }
        if let Some(lost_at) = client.lost_at.take() {
            self.measure.time(Latency::Outage, lost_at, self.now);
            if !std::mem::take(&mut client.is_lost_by_plan) {
                self.result.outages.push((lost_at, Some(self.now)));
            }
        }
        let first = !std::mem::replace(&mut client.has_come, true);
        if client.is_slow {
            let connection = client.connection;
            self.arm(self.now, place, Tick::SlowRead { connection });
        }
        if first {
            self.begin_closed_streams(place);
        }
        self.flush_backlog(place);
        self.player_entered(place);
    }

    /// Once a second: handshakes and sessions that have been silent for too long.
    pub(super) fn sweep(&mut self) {
        for place in 0..self.clients.len() {
            let client = &self.clients[place];
            let silence = self.now.saturating_sub(client.last_heard);
            if client.stage.is_handshake() && silence > PATIENCE {
                self.connect_failed(place, "connect: no answer", None);
            } else if client.stage.is_open()
                && !client.is_slow
                && client.heartbeat > 0
                && silence > 2 * client.heartbeat
            {
                self.lost(place, "silent for two heartbeats");
            }
        }
        self.shared.joined.store(self.joined, Ordering::Relaxed);
    }

    pub(super) fn slow_read(&mut self, place: usize, connection: u32) {
        if self.clients[place].connection != connection {
            return;
        }
        let mut scratch = vec![0; (self.scenario.slow_readers.bytes_per_s / 10).max(1) as usize];
        self.read_once(place, &mut scratch);
        self.arm(self.now + 100_000, place, Tick::SlowRead { connection });
    }

    /// Reads at most once; true: there may be more.
    pub(super) fn read_once(&mut self, place: usize, scratch: &mut [u8]) -> bool {
        let Some(socket) = self.clients[place].socket.as_mut() else { return false };
        match socket.read(scratch) {
            Ok(Got::Bytes(count)) => {
                let has_records = socket.has_records();
                self.now = self.clock();
                self.measure.counts.bytes_in += count as u64;
                self.arrived(place, &scratch[..count]);
                count == scratch.len() || has_records
            }
            Ok(Got::Dry) => false,
            Ok(Got::End) => {
                self.lost(place, "connection: closed");
                false
            }
            Err(error) => {
                self.lost(place, &format!("connection: {}", kind(&error)));
                false
            }
        }
    }

    /// Whether a message of this stream comes back to its sender.
    pub(super) fn hears_itself(&self, stream: u8) -> bool {
        !is_to_others(&self.scenario, stream)
    }
}

fn kind(error: &std::io::Error) -> String {
    match error.kind() {
        // TLS says more than that.
        std::io::ErrorKind::Other | std::io::ErrorKind::InvalidData => error.to_string(),
        kind => kind.to_string(),
    }
}
