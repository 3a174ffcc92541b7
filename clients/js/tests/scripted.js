/** A WebSocket server that does what a test's script says, one step at a time. */
import { createServer } from 'node:http';
import { WebSocket, WebSocketServer } from 'ws';

import { Client } from 'mlms-client';

/** Values that are waited for in the order in which they come. */
class Line {
  #values = [];
  #takers = [];

  put(value) {
    const taker = this.#takers.shift();
    if (taker) taker(value);
    else this.#values.push(value);
  }

  take() {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  get size() {
    return this.#values.length;
  }
}

/** The server's end of one connection. */
class Session {
  frames = new Line();

  constructor(ws, request) {
    this.ws = ws;
    this.protocols = request.headers['sec-websocket-protocol'].split(',').map((text) => text.trim());
    this.token = this.protocols[1].slice('bearer.'.length);
    this.closed = new Promise((resolve) => ws.on('close', (code) => resolve(code)));
    ws.on('message', (data) => this.frames.put(JSON.parse(String(data))));
    ws.on('error', () => {});
  }

  /** The next command; fails when it is another operation than the script expects. */
  async command(op) {
    const frame = await this.frames.take();
    if (frame.op !== op) throw new Error(`expected ${op}, got ${JSON.stringify(frame)}`);
    return frame;
  }

  send(frame) {
    this.ws.send(JSON.stringify(frame));
  }

  welcome(more = {}) {
    this.send({ ev: 'welcome', session: 's', user: 'ann', node: 'n1', heartbeat_ms: 25000, limits: {}, now: Date.now(), ...more });
  }

  ok(command, ok = {}) {
    this.send({ id: command.id, ok });
  }

  err(command, code, more = {}) {
    this.send({ id: command.id, err: { code, message: code, ...more } });
  }

  event(ev, seq, more = {}) {
    this.send({ ev, lobby: 'den', epoch: 1, seq, at: 1000 + seq, ...more });
  }

  message(seq, body, more = {}) {
    this.event('message', seq, { kind: 'chat', from: 'bob', body, ...more });
  }

  /** Answers the join of the lobby `den` with a snapshot at `seq`. */
  async joins(seq = 0, state = {}, more = {}) {
    const command = await this.command('join');
    this.ok(command, { ...snapshot(seq, state), ...more });
    return command;
  }
}

export function snapshot(seq, state = {}) {
  const full = { settings: {}, host: 'ann', members: [], members_total: 0, game: null, messages: [], ...state };
  return { lobby: 'den', epoch: 1, seq, status: 'snapshot', missed: 0, state: full };
}

/** Starts a server and gives clients that come back quickly; all of it ends with the test. */
export async function scripted(t) {
  const sessions = new Line();
  /** Set to answer upgrades with an HTTP status. */
  const gate = { refuse: undefined };
  const http = createServer();
  const server = new WebSocketServer({ noServer: true, handleProtocols: (offered) => [...offered].find((name) => name === 'mlms.v1.json') });
  http.on('upgrade', (request, socket, head) => {
    if (gate.refuse) {
      const { status, headers = '' } = gate.refuse;
      gate.refuse = undefined;
      return socket.end(`HTTP/1.1 ${status} No\r\nContent-Length: 0\r\nConnection: close\r\n${headers}\r\n`);
    }
    server.handleUpgrade(request, socket, head, (ws) => sessions.put(new Session(ws, request)));
  });
  await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${http.address().port}/ws`;
  const clients = [];
  t.after(() => {
    for (const client of clients) client.close();
    for (const ws of server.clients) ws.terminate();
    http.closeAllConnections();
    http.close();
  });
  return {
    url,
    gate,
    sessions,
    session: () => sessions.take(),
    client(options = {}) {
      const client = new Client({ url, token: 'tok', WebSocket, backoffBaseMs: 1, backoffMaxMs: 5, ...options });
      clients.push(client);
      return client;
    },
    /** A client that is in the lobby `den` at `seq`, and the server's end of it. */
    async inLobby(seq = 0, options = {}, state = {}, more = {}) {
      const client = this.client(options);
      void client.connect();
      const session = await this.session();
      session.welcome(options.welcome);
      const joining = client.join('den', options.join);
      await session.joins(seq, state, more);
      return { client, session, lobby: await joining };
    },
  };
}

/** The events of a lobby as short words, in order. */
export function record(lobby) {
  const seen = [];
  lobby.on('*', (name, value) => {
    if (name === 'message') seen.push(value.seq === undefined ? value.body : `${value.seq}:${value.body}`);
    else if (name === 'status') seen.push(`<${value}>`);
    else seen.push(name);
  });
  return seen;
}
