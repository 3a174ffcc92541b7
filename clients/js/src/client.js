import { Backoff } from './backoff.js';
import { Emitter } from './emitter.js';
import { MlmsError } from './error.js';
import { Lobby } from './lobby.js';
import { Outbox } from './outbox.js';
import { Pace } from './pace.js';
import { Socket } from './socket.js';
import { TokenSource } from './token.js';

/** Operations that change nothing when they happen twice; the others carry a nonce. */
const HARMLESS = new Set(['join', 'resume', 'history', 'roster', 'find', 'auth', 'ping', 'read', 'report_message', 'block', 'unblock', 'blocked']);

/**
 * @typedef {object} ClientOptions
 * @property {string | (() => Promise<string>)} url of `/ws`; `http` and paths of the page are understood
 * @property {import('./token.js').TokenProvider} token
 * @property {{encode: (value: any) => Uint8Array, decode: (bytes: Uint8Array) => any}} [msgpack] as of `@msgpack/msgpack`:
 *   frames are MessagePack then, else JSON
 * @property {any} [WebSocket] where the platform has none (Node 20: the class of the `ws` package)
 * @property {number} [backoffBaseMs] 1000
 * @property {number} [backoffMaxMs] 30000
 * @property {number} [connectTimeoutMs] 10000
 * @property {number} [pongTimeoutMs] 10000
 * @property {number} [replyTimeoutMs] 10000; then a command that can be repeated is
 * @property {number} [stableMs] 10000; a connection that lasts this long clears the backoff
 * @property {number} [outboxCountMax] 256
 * @property {number} [outboxBytesMax] 1 MiB
 * @property {number} [bufferedMax] 256 KiB waiting in the socket hold the outbox back
 * @property {() => number} [random]
 *
 * @typedef {object} JoinOptions
 * @property {import('./wire.js').Settings | true} [create] where there is none, with these settings
 * @property {string} [password]
 * @property {string} [invite]
 * @property {'player' | 'spectator'} [role]
 * @property {boolean} [saved]
 *
 * @typedef {'closed' | 'connecting' | 'open' | 'waiting'} State
 * @typedef {{code: number | string, reason: string}} Reason
 */

/**
 * @extends {Emitter<import('./wire.js').ClientEvents>}
 *
 * A player. Stays connected, stays in its lobbies, and keeps its promises over every interruption.
 *
 * Emits `state` ({state, reason, retryAt}), `welcome`, `bye`, `notice`, `achievement`, `error` (MlmsError without a
 * command), `event` (every event of a lobby that the application sees, and its Lobby).
 */
export class Client extends Emitter {
  /** @type {State} */
  state = 'closed';
  /** Why it is closed or waiting. @type {Reason} */
  reason = { code: 'new', reason: 'not connected yet' };
  /** When the next try begins (Unix ms by the local clock), while waiting. @type {number | undefined} */
  retryAt;
  /** The own user id, from the first welcome on. @type {string | undefined} */
  user;
  /** The last welcome. @type {any} */
  welcome;
  /** @type {Map<string, Lobby>} */
  lobbies = new Map();
  /** Server's time minus local time. */
  #clockOffset = 0;
  /** @type {Socket | undefined} */
  #socket;
  /** @type {any} */
  #bye;
  /** Counts tries, so that what an abandoned one finds out is ignored. */
  #try = 0;
  /** @type {Record<string, ReturnType<typeof setTimeout>>} */
  #timers = {};
  #pace = new Pace();
  /** @type {Backoff} */
  #backoff;
  /** @type {TokenSource} */
  #tokens;
  /** @type {Outbox} */
  #outbox;
  /** @type {(frame: any) => string | Uint8Array} */
  #encode;

  /** @param {ClientOptions} options */
  constructor(options) {
    super();
    this.options = {
      WebSocket: globalThis.WebSocket,
      backoffBaseMs: 1_000,
      backoffMaxMs: 30_000,
      connectTimeoutMs: 10_000,
      pongTimeoutMs: 10_000,
      replyTimeoutMs: 10_000,
      stableMs: 10_000,
      outboxCountMax: 256,
      outboxBytesMax: 1_048_576,
      bufferedMax: 262_144,
      random: Math.random,
      ...options,
    };
    const o = this.options;
    if (!o.WebSocket) throw new TypeError('this platform has no WebSocket: pass one as an option');
    const { msgpack } = o;
    this.#encode = msgpack ? (frame) => msgpack.encode(dense(frame)) : JSON.stringify;
    this.#backoff = new Backoff({ baseMs: o.backoffBaseMs, maxMs: o.backoffMaxMs, random: o.random });
    this.#tokens = new TokenSource(o.token, () => Date.now() + this.#clockOffset);
    this.#outbox = new Outbox({
      countMax: o.outboxCountMax,
      bytesMax: o.outboxBytesMax,
      bufferedMax: o.bufferedMax,
      replyTimeoutMs: o.replyTimeoutMs,
      now: Date.now,
      mayGo: (command) => this.state === 'open' && this.#mayGo(command),
      encode: this.#encode,
      write: (text) => this.#socket?.write(text) ?? false,
      buffered: () => this.#socket?.bufferedAmount ?? 0,
      pace: (chat, now) => this.#pace.take(chat, now),
      onSilence: () => this.#socket?.abort('no answer', 4003),
    });
  }

  /** Commands that wait for an answer. */
  get pending() {
    return this.#outbox.size;
  }

  /**
   * Connects, and stays connected until `close` or until the server says never.
   * @returns {Promise<void>} once open; rejects when it ends before
   */
  connect() {
    if (this.state === 'closed') {
      this.#backoff.reset();
      // A network that comes back is tried at once; one that goes may have killed the connection silently.
      globalThis.addEventListener?.('online', this.#online);
      globalThis.addEventListener?.('offline', this.#offline);
      void this.#open();
    }
    /** @type {Promise<void>} */
    const opened = new Promise((resolve, reject) => {
      const settle = () => {
        if (this.state === 'open') resolve();
        else if (this.state === 'closed') reject(new MlmsError('closed', this.reason.reason));
        else return false;
        return true;
      };
      if (settle()) return;
      const off = this.on('state', () => void (settle() && off()));
    });
    opened.catch(() => {}); // whoever does not wait for it hears of the end by `state`
    return opened;
  }

  /** Ends the connection. The memberships stay for the server's grace time; `leave` ends one at once. */
  close() {
    const socket = this.#socket;
    this.#bye = undefined;
    this.#finish({ code: 'closed', reason: 'closed by the application' });
    socket?.abort('closed', 1000);
  }

  /** A waiting client tries at once, as when the player asks for it. */
  retryNow() {
    if (this.state === 'waiting') void this.#open();
  }

  /**
   * Joins a lobby and stays in it.
   * @param {string} id
   * @param {JoinOptions} [options]
   * @returns {Promise<Lobby>}
   */
  join(id, options = {}) {
    return this.#enter('join', { lobby: id, ...options }, id, options);
  }

  /**
   * Lists lobbies.
   * @param {{filter?: Record<string, any>, cursor?: string, limit?: number}} [page]
   * @returns {Promise<{lobbies: any[], next?: string}>}
   */
  find(page = {}) {
    return this.command('find', page);
  }

  /**
   * Joins the lobby that fits best, or a new one.
   * @param {{filter?: Record<string, any>, quick?: any}} [fields]
   * @returns {Promise<Lobby>}
   */
  quick(fields = {}) {
    return this.#enter('find', { quick: true, nonce: makeNonce(), ...fields }, '', {});
  }

  /** What this user says reaches the player no more, in any lobby. @param {string} user @returns {Promise<{users: string[]}>} */
  block(user) {
    return this.command('block', { user });
  }

  /** @param {string} user @returns {Promise<{users: string[]}>} */
  unblock(user) {
    return this.command('unblock', { user });
  }

  /** Whom the player blocks. @returns {Promise<{users: string[]}>} */
  blocked() {
    return this.command('blocked');
  }

  /** @param {string} op @param {any} fields @param {string} id @param {JoinOptions} options @returns {Promise<Lobby>} */
  async #enter(op, fields, id, options) {
    /** @type {any} */
    let lobby;
    const onOk = (/** @type {any} */ ok) => {
      lobby = this.#adopt(ok.lobby ?? id, options);
      this.#attached(lobby, ok);
    };
    await this.#push(op, fields, { repeatable: true, onOk });
    return lobby;
  }

  /**
   * Any operation of the protocol. State-changing ones carry a nonce and happen once, however often they are sent.
   * @param {string} op
   * @param {any} [fields]
   * @returns {Promise<any>} the reply's ok
   */
  command(op, fields = {}) {
    if (op === 'typing' || fields.class === 'ephemeral') return this.#fleeting(op, fields);
    const sequenced = op !== 'send' || classOf(fields) === 'durable';
    const nonce = fields.nonce ?? (HARMLESS.has(op) && !fields.quick ? undefined : makeNonce());
    return this.#push(op, { ...fields, nonce }, { repeatable: sequenced });
  }

  /** @param {string} op @param {any} fields @param {any} how @returns {Promise<any>} */
  #push(op, fields, how) {
    if (this.state !== 'closed') return this.#outbox.push(op, fields, how);
    return Promise.reject(new MlmsError('closed', this.reason.reason, { op, lobby: fields.lobby }));
  }

  /** What is worth nothing later is sent now or not at all; with a key the newest waits. @param {string} op @param {any} fields */
  async #fleeting(op, fields) {
    const { lobby, key } = fields;
    const socket = this.#socket;
    if (!socket || this.state !== 'open' || this.lobbies.get(lobby)?.status !== 'live') return {};
    if (key !== undefined) {
      const latest = JSON.stringify([lobby, fields.kind, key, fields.to]);
      return this.#outbox.push(op, fields, { repeatable: false, key: latest }).catch((error) => {
        if (error.code !== 'connection_lost' && error.code !== 'timeout') throw error;
        return {};
      });
    }
    const room = socket.bufferedAmount <= this.options.bufferedMax && this.#pace.take(false, Date.now()) === 0;
    if (room) socket.write(this.#encode({ op, ...fields }));
    return {};
  }

  async #open() {
    const mine = ++this.#try;
    this.#clear();
    this.#bye = undefined;
    this.#become('connecting');
    let url;
    let token;
    try {
      [url, token] = await Promise.all([resolveUrl(this.options.url), this.#tokens.get()]);
    } catch (/** @type {any} */ error) {
      if (mine !== this.#try) return;
      const reason = { code: 'token', reason: String(error?.message ?? error) };
      return error?.permanent ? this.#finish(reason) : this.#wait(reason);
    }
    if (mine !== this.#try) return;
    try {
      this.#socket = new Socket({
        url,
        token,
        WebSocket: this.options.WebSocket,
        msgpack: this.options.msgpack,
        connectTimeoutMs: this.options.connectTimeoutMs,
        pongTimeoutMs: this.options.pongTimeoutMs,
        onWelcome: (welcome) => mine === this.#try && this.#welcomed(welcome),
        onFrame: (frame) => mine === this.#try && this.#read(frame),
        onEnd: (end) => mine === this.#try && this.#ended(end),
      });
    } catch (/** @type {any} */ error) {
      this.#finish({ code: 'url', reason: String(error?.message ?? error) }); // not a URL: no retry mends it
    }
  }

  /** @param {any} welcome */
  #welcomed(welcome) {
    this.welcome = welcome;
    this.user = welcome.user;
    if (welcome.now > 0) this.#clockOffset = welcome.now - Date.now();
    this.#pace.reset(welcome.limits ?? {}, Date.now());
    this.#outbox.frameBytesMax = welcome.limits?.frame_bytes_max || 65_536;
    this.#timers.stable = setTimeout(() => this.#backoff.reset(), this.options.stableMs);
    this.#renewToken();
    this.#become('open');
    this.emit('welcome', welcome);
    this.#resume();
    this.#outbox.flush();
  }

  /** @param {any} frame */
  #read(frame) {
    if (frame?.id !== undefined) {
      this.#outbox.answer(frame);
    } else if (frame?.ev === 'bye') {
      this.#byeCame(frame);
    } else if (frame?.ev === 'error') {
      this.emit('error', MlmsError.fromWire(frame, frame));
    } else if (frame?.lobby !== undefined) {
      this.#lobbyEvent(frame);
    } else if (frame?.ev) {
      this.emit(frame.ev, frame);
    }
  }

  /** @param {any} event */
  #lobbyEvent(event) {
    let lobby = this.lobbies.get(event.lobby);
    if (!lobby && event.ev === 'snapshot') lobby = this.#adopt(event.lobby, {}); // joined by the URL's `lobby`
    if (!lobby) return; // left meanwhile
    const own = event.ev === 'message' && event.from === this.user && event.nonce !== undefined;
    if (own) this.#outbox.confirm(lobby.id, event.nonce, { epoch: event.epoch, seq: event.seq, at: event.at });
    if (lobby.take(event)) this.emit('event', event, lobby);
    if (event.ev === 'snapshot') this.#confirmAll(lobby);
    if (event.ev === 'caught_up' || event.ev === 'snapshot') this.#outbox.flush();
  }

  /** @param {any} bye */
  #byeCame(bye) {
    const to = bye.reconnect === 'window' ? Number(bye.window_ms?.[1]) || 1_000 : 1_000;
    this.#bye = { ...bye, at: Date.now() };
    this.emit('bye', bye);
    // The server closes; one that does not is not waited for longer than it asked.
    this.#timers.bye = setTimeout(() => this.#socket?.abort('bye', 1000), Math.max(to, 1_000));
  }

  /** @param {import('./socket.js').End} end */
  #ended(end) {
    this.#socket = undefined;
    clearTimeout(this.#timers.stable);
    if (end.code === 1009) this.#outbox.refuseSent('too_large', 'the server refused a frame as too large');
    this.#outbox.disconnected();
    for (const lobby of this.lobbies.values()) lobby.become('interrupted');
    const reason = { code: this.#bye?.code ?? end.code, reason: this.#bye?.reason || end.reason };
    const never = this.#bye?.reconnect === 'never' || (end.code >= 4500 && end.code < 5000);
    if (never || end.status === 400 || end.status === 403) return this.#finish(reason);
    if (!end.welcomed || end.code === 4005) {
      if ((end.code === 4005 || end.status === 401) && !this.#tokens.renewable) return this.#finish(reason);
      this.#tokens.doubt();
    }
    this.#wait(reason, end.retryAfterMs);
  }

  /** @param {Reason} reason @param {number} [leastMs] */
  #wait(reason, leastMs) {
    const spent = this.#bye ? Date.now() - this.#bye.at : 0;
    const wait = Math.max(0, this.#backoff.next(this.#bye, leastMs) - spent);
    this.#clear();
    this.reason = reason;
    this.retryAt = Date.now() + wait;
    this.#timers.retry = setTimeout(() => this.#open(), wait);
    this.#become('waiting');
  }

  /** @param {Reason} reason */
  #finish(reason) {
    this.#try += 1;
    this.#clear();
    globalThis.removeEventListener?.('online', this.#online);
    globalThis.removeEventListener?.('offline', this.#offline);
    this.#socket = undefined;
    this.reason = reason;
    for (const lobby of this.lobbies.values()) lobby.become('interrupted');
    this.#outbox.refuse(new MlmsError('closed', reason.reason));
    this.#become('closed');
  }

  /** @param {State} state */
  #become(state) {
    if (state !== 'waiting') this.retryAt = undefined;
    if (this.state === state && state === 'closed') return;
    this.state = state;
    this.emit('state', { state, reason: this.reason, retryAt: this.retryAt });
  }

  #clear() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
  }

  /** Attaches every joined lobby again, where it was. */
  #resume() {
    const lobbies = [...this.lobbies.values()];
    const known = lobbies.filter((lobby) => lobby.position);
    for (const lobby of lobbies) if (!lobby.position) this.#rejoin(lobby);
    if (known.length > 0) this.#resumeThese(known);
  }

  /**
   * Resumes lobbies from their positions. A resume, unlike a join, undoes no kick and creates nothing anew.
   * @param {Lobby[]} lobbies @param {number} [round]
   */
  #resumeThese(lobbies, round = 0) {
    const fields = { lobbies: lobbies.map(entryOf) };
    const onOk = (/** @type {any} */ ok) => {
      for (const result of ok.lobbies ?? []) {
        const lobby = this.lobbies.get(result.lobby);
        if (!lobby) continue;
        if (!result.err) this.#attached(lobby, result);
        else if (result.err.retry_ms > 0) this.#rejoin(lobby, result.err.retry_ms, round);
        else if (result.err.code === 'not_found') this.#join(lobby, round); // a server that lost it, or never had it
        else this.#end(lobby, MlmsError.fromWire(result.err, { lobby: lobby.id }));
      }
    };
    this.#outbox.push('resume', fields, { repeatable: true, urgent: true, onOk }).catch((error) => {
      if (error.code === 'connection_lost' || error.code === 'closed') return;
      for (const lobby of lobbies) {
        if (this.lobbies.get(lobby.id) !== lobby) continue;
        if (error.retryMs > 0) this.#rejoin(lobby, error.retryMs, round);
        else if (error.code === 'unknown_op') this.#join(lobby, round);
        else this.#end(lobby, error);
      }
    });
  }

  /**
   * Enters a known lobby again, from its position where it has one, as often as the server says that it may help.
   * @param {Lobby} lobby @param {number} [afterMs] @param {number} [round]
   */
  #rejoin(lobby, afterMs = 0, round = 0) {
    const name = `rejoin ${lobby.id}`;
    clearTimeout(this.#timers[name]);
    if (afterMs > 0) {
      const spread = this.options.random() * Math.min(this.options.backoffMaxMs, afterMs * 2 ** Math.min(round, 10));
      this.#timers[name] = setTimeout(() => this.#rejoin(lobby, 0, round + 1), afterMs + spread);
      return;
    }
    if (this.lobbies.get(lobby.id) !== lobby) return;
    lobby.become('interrupted');
    if (lobby.position) this.#resumeThese([lobby], round);
    else this.#join(lobby, round);
  }

  /** @param {Lobby} lobby @param {number} round */
  #join(lobby, round) {
    const onOk = (/** @type {any} */ ok) => this.lobbies.get(lobby.id) === lobby && this.#attached(lobby, ok);
    const fields = { lobby: lobby.id, ...lobby.options, since: lobby.position };
    this.#outbox.push('join', fields, { repeatable: true, urgent: true, onOk }).catch((error) => {
      if (error.code === 'connection_lost' || error.code === 'closed') return;
      if (error.retryMs > 0) this.#rejoin(lobby, error.retryMs, round);
      else this.#end(lobby, error);
    });
  }

  /** @param {Lobby} lobby @param {any} ok */
  #attached(lobby, ok) {
    lobby.attached(ok);
    if (ok.status !== 'resumed') this.#confirmAll(lobby);
    this.#outbox.flush();
  }

  /** A snapshot may show own messages whose reply was lost. @param {Lobby} lobby */
  #confirmAll(lobby) {
    for (const { from, nonce, epoch, seq, at } of lobby.messages) {
      if (nonce !== undefined && from === this.user) this.#outbox.confirm(lobby.id, nonce, { epoch, seq, at });
    }
  }

  /** @param {string} id @param {any} options */
  #adopt(id, options) {
    const known = this.lobbies.get(id);
    if (known) {
      known.options = { ...known.options, ...options };
      return known;
    }
    const lobby = new Lobby(id, options, {
      command: (op, fields) => this.command(op, fields),
      heal: (which) => this.#rejoin(which),
      end: (which, error) => this.#end(which, error),
      leave: (which) => this.#leave(which),
      user: () => this.user,
    });
    this.lobbies.set(id, lobby);
    return lobby;
  }

  /** @param {Lobby} lobby @param {MlmsError} error */
  #end(lobby, error) {
    if (this.lobbies.get(lobby.id) !== lobby) return;
    this.lobbies.delete(lobby.id);
    this.#outbox.refuse(error, lobby.id);
    lobby.become('ended');
    lobby.emit('ended', error);
  }

  /** @param {Lobby} lobby */
  async #leave(lobby) {
    if (this.lobbies.get(lobby.id) === lobby) this.lobbies.delete(lobby.id);
    const ended = lobby.status === 'ended';
    lobby.become('ended');
    if (!ended) lobby.emit('ended', new MlmsError('not_member', 'left', { lobby: lobby.id }));
    await this.command('leave', { lobby: lobby.id }).catch((error) => {
      if (error.code !== 'not_member' && error.code !== 'not_found' && error.code !== 'lobby_closed') throw error;
    });
  }

  /** Nothing overtakes a lobby's recovery. @param {import('./outbox.js').Command} command */
  #mayGo({ op, lobby }) {
    if (op === 'join' || lobby === undefined) return true;
    const known = this.lobbies.get(lobby);
    return !known || known.status === 'live';
  }

  /** Hands the server a new token before the old one ends. */
  #renewToken() {
    const ends = this.#tokens.expiresAt;
    if (!this.#tokens.renewable || ends === undefined) return;
    const left = ends - (Date.now() + this.#clockOffset);
    const wait = Math.min(Math.max(left - Math.max(60_000, left * 0.1), left / 2), 2 ** 31 - 1);
    this.#timers.token = setTimeout(async () => {
      const mine = this.#try;
      try {
        const held = this.#tokens.token;
        const token = await this.#tokens.refresh('expiring');
        if (mine !== this.#try || this.state !== 'open' || token === held) return;
        await this.command('auth', { token });
        this.#renewToken();
      } catch {
        // the server closes with 4005 in time, and the next connection asks for a token again
      }
    }, Math.max(1_000, wait));
  }

  #online = () => {
    if (this.state === 'waiting') {
      clearTimeout(this.#timers.retry);
      this.#timers.retry = setTimeout(() => this.#open(), this.options.random() * 1_000);
    } else this.#socket?.probe();
  };

  #offline = () => this.#socket?.probe();
}

/** A resume's entry: the position, and what a join would need. @param {Lobby} lobby */
function entryOf({ id, position, options: { saved, password, invite, role } }) {
  return dense({ lobby: id, ...position, saved, password, invite, role });
}

/** @param {any} fields */
function classOf({ kind, to, retain, class: named }) {
  return named ?? (retain || (kind === 'chat' && to === undefined) ? 'durable' : 'ordered');
}

/** A nonce of 22 characters, 128 random bits; `randomUUID` exists only on secure pages. */
export function makeNonce() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').slice(0, 22);
}

/** MessagePack has no way to leave out what is undefined. @param {any} frame */
function dense(frame) {
  return Object.fromEntries(Object.entries(frame).filter(([, value]) => value !== undefined));
}

/** @param {string | (() => Promise<string>)} url */
async function resolveUrl(url) {
  const text = typeof url === 'function' ? await url() : url;
  return new URL(text, globalThis.location?.href).href.replace(/^http/, 'ws');
}
