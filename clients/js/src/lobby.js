import { Emitter } from './emitter.js';
import { MlmsError } from './error.js';

/**
 * @typedef {object} Member
 * @property {string} user
 * @property {string} [name]
 * @property {string} [role]
 * @property {boolean} [away]
 * @property {boolean} [ready]
 * @property {any} [attributes]
 *
 * @typedef {'live' | 'interrupted' | 'catching_up' | 'ended'} LobbyStatus
 *
 * @typedef {object} SendOptions
 * @property {'durable' | 'ordered' | 'ephemeral'} [class]
 * @property {string[] | string} [to]
 * @property {string} [key]
 * @property {boolean} [retain] with a key: the newest lasts
 * @property {string} [nonce] made up when left out
 */

/**
 * @extends {Emitter<import('./wire.js').LobbyEvents>}
 *
 * A joined lobby: its position, its state kept up by its events, and the verbs of a member. Survives reconnects.
 *
 * Emits each event of the protocol under its name (`message`, `joined`, …), and `status` (LobbyStatus),
 * `snapshot` (start again from `lobby`; the position was lost), `resumed` ({missed}), `gap` ({after, got}),
 * `ended` (MlmsError).
 */
export class Lobby extends Emitter {
  epoch = 0;
  seq = 0;
  /** @type {LobbyStatus} */
  status = 'interrupted';
  /** @type {import('./wire.js').Settings} */
  settings = {};
  /** @type {string | null} */
  host = null;
  /** Known members; of a large lobby the first hundred, the own entry and those seen since. @type {Map<string, Member>} */
  members = new Map();
  membersTotal = 0;
  /** The number of the game under way. @type {number | null} */
  game = null;
  /** The newest messages of the last snapshot. @type {any[]} */
  messages = [];
  /** The newest message of each key that is retained. @type {Map<string, any>} */
  retained = new Map();
  /** Up to here the player has read, on whatever device. */
  readSeq = 0;
  /** Chats of others behind that. */
  unread = 0;
  /** A gap that the server could not close is passed over the second time. */
  #gapAt = -1;

  /**
   * @param {string} id
   * @param {any} options the join's fields, for joining again
   * @param {{command: (op: string, fields?: any, how?: any) => Promise<any>, heal: (lobby: Lobby) => void,
   *   end: (lobby: Lobby, error: MlmsError) => void, leave: (lobby: Lobby) => Promise<void>, user: () => string | undefined}} client
   */
  constructor(id, options, client) {
    super();
    this.id = id;
    this.options = options;
    this.client = client;
  }

  /** What `resume` and `join` take as `since`; none before the first join. */
  get position() {
    return this.epoch > 0 || this.seq > 0 ? { epoch: this.epoch, seq: this.seq } : undefined;
  }

  /**
   * Sends a message. Durable: resolves with `{epoch, seq, at}` once it cannot be lost, however often the connection
   * breaks before. Unsequenced: resolves when the server took it, rejects with `connection_lost` when that is unclear.
   * @param {string} kind @param {any} body @param {SendOptions} [options]
   * @returns {Promise<import('./wire.js').Sent>}
   */
  send(kind, body, options = {}) {
    return this.command('send', { kind, body, ...options });
  }

  /** Sends a value that lasts: whoever joins later finds it in `retained`. Null takes it away. @param {string} key @param {any} body @param {string} [kind] */
  retain(key, body, kind = 'game') {
    return this.send(kind, body, { key, retain: true });
  }

  /** Everything up to here is read, on all of the player's devices. @param {number} [seq] @returns {Promise<{read: number, unread: number}>} */
  async read(seq = this.seq) {
    const ok = await this.command('read', { seq });
    this.#mark(ok);
    return ok;
  }

  /** Brings a message to the notice of those who moderate the service. @param {number} seq @param {string} [reason] */
  reportMessage(seq, reason) {
    return this.command('report_message', { seq, reason });
  }

  /** Sends a chat message. @param {string} text @param {SendOptions} [options] */
  chat(text, options) {
    return this.send('chat', text, options);
  }

  /** Tells the others that the player types. Dropped while not connected. */
  typing() {
    return this.command('typing');
  }

  /** @param {{before?: number, after?: number, limit?: number}} [page] @returns {Promise<{events: any[], more: boolean}>} */
  history(page = {}) {
    return this.command('history', { limit: 50, ...page });
  }

  /** @param {{cursor?: string, limit?: number}} [page] @returns {Promise<{members: Member[], next?: string}>} */
  roster(page = {}) {
    return this.command('roster', page);
  }

  /** @param {boolean} [ready] */
  ready(ready = true) {
    return this.command('ready', { ready });
  }

  /** Begins a game. For the host. @returns {Promise<{seq: number, game: number}>} */
  start() {
    return this.command('start');
  }

  /** Says what happened in the game. @param {string} stat @param {number} amount @param {string} [user] */
  report(stat, amount, user) {
    return this.command('report', { stat, amount, user });
  }

  /** Ends the game. For the host. @param {any} [results] @returns {Promise<{seq: number, game: number}>} */
  finish(results) {
    return this.command('finish', { results });
  }

  /** @param {string} user @param {string} [reason] */
  kick(user, reason) {
    return this.command('kick', { user, reason });
  }

  /** @param {string} user @param {{for_s?: number, reason?: string}} [more] without `for_s` for ever */
  ban(user, more) {
    return this.command('ban', { user, ...more });
  }

  /** @param {string} user */
  unban(user) {
    return this.command('unban', { user });
  }

  /** @param {string} user @param {{for_s?: number, reason?: string}} [more] without `for_s` for ever */
  mute(user, more) {
    return this.command('mute', { user, ...more });
  }

  /** @param {string} user */
  unmute(user) {
    return this.command('unmute', { user });
  }

  /** Makes another member the host. @param {string} user */
  transfer(user) {
    return this.command('transfer', { user });
  }

  /** @param {string} user @param {'moderator' | 'player' | 'spectator'} role */
  role(user, role) {
    return this.command('role', { user, role });
  }

  /** The lobby's settings (by the host) or the own attributes. @param {{settings?: import('./wire.js').Settings, attributes?: Record<string, any>}} what */
  update(what) {
    return this.command('update', what);
  }

  /** @param {number} seq of the message @param {any} body */
  edit(seq, body) {
    return this.command('edit', { seq, body });
  }

  /** @param {number} seq of the message */
  delete(seq) {
    return this.command('delete', { seq });
  }

  /** @param {number} seq of the message @param {string} emoji */
  react(seq, emoji) {
    return this.command('react', { seq, emoji });
  }

  /** Ends the lobby for everybody. */
  close() {
    return this.command('close');
  }

  /**
   * Any operation of the protocol on this lobby. What changes something carries a nonce and happens once.
   * @param {string} op @param {any} [fields] @returns {Promise<any>}
   */
  command(op, fields = {}) {
    if (this.status === 'ended') return Promise.reject(new MlmsError('not_member', 'this lobby was left', { op, lobby: this.id }));
    return this.client.command(op, { lobby: this.id, ...fields });
  }

  /** Leaves for good; being offline does not. */
  leave() {
    return this.client.leave(this);
  }

  /** @internal @param {LobbyStatus} status */
  become(status) {
    if (this.status === status) return;
    this.status = status;
    this.emit('status', status);
  }

  /** The answer to a join or a resume. @internal @param {any} ok */
  attached(ok) {
    if (ok.status !== 'resumed') return this.#restart(ok);
    // The own position stays: the missed events may be of older epochs than the lobby's newest. They are counted already.
    this.#mark(ok);
    this.become(ok.missed > 0 ? 'catching_up' : 'live');
    this.emit('resumed', { missed: ok.missed ?? 0 });
  }

  /** An event of this lobby. @internal @param {any} event @returns {boolean} false: a duplicate, or held back */
  take(event) {
    if (event.ev === 'snapshot') {
      this.#restart(event);
      return true;
    }
    if (event.ev === 'caught_up') this.become('live');
    else if (event.seq !== undefined && event.ev !== 'saved' && !this.#advance(event)) return false;
    this.#fold(event);
    this.emit(event.ev, event);
    const gone = ['left', 'kicked', 'banned'].includes(event.ev) && event.user === this.client.user();
    if (gone || event.ev === 'closed') {
      const code = { left: 'not_member', closed: 'lobby_closed' }[/** @type {string} */ (event.ev)] ?? event.ev;
      this.client.end(this, new MlmsError(code, event.reason ?? '', { lobby: this.id }));
    }
    return true;
  }

  /** @param {any} event @returns {boolean} whether it is the next one */
  #advance(event) {
    if (event.seq <= this.seq) return false;
    if (event.seq > this.seq + 1) {
      if (this.status === 'interrupted') return false; // being healed: the server sends it again
      const known = this.#gapAt === this.seq;
      this.#gapAt = this.seq;
      this.emit('gap', { after: this.seq, got: event.seq });
      if (!known) {
        this.client.heal(this);
        return false;
      }
    }
    this.seq = event.seq;
    this.epoch = Math.max(this.epoch, event.epoch ?? 0);
    return true;
  }

  /** @param {{read?: number, unread?: number}} mark */
  #mark({ read = 0, unread = 0 }) {
    if (read < this.readSeq) return;
    this.readSeq = read;
    this.unread = unread;
  }

  /** @param {any} ok a join's ok or a `snapshot` event */
  #restart({ epoch, seq, state, read = 0, unread = 0 }) {
    const first = this.position === undefined;
    this.epoch = epoch;
    this.seq = seq;
    this.settings = state?.settings ?? {};
    this.host = state?.host ?? null;
    this.members = new Map((state?.members ?? []).map((/** @type {Member} */ member) => [member.user, { ...member }]));
    this.membersTotal = state?.members_total ?? this.members.size;
    this.game = state?.game ?? null;
    this.messages = state?.messages ?? [];
    this.retained = new Map((state?.retained ?? []).map((/** @type {any} */ message) => [message.key, message]));
    this.readSeq = read;
    this.unread = unread;
    this.become('live');
    if (!first) this.emit('snapshot', this);
  }

  /** @param {any} event */
  #fold(event) {
    const { user } = event;
    const member = this.members.get(user);
    switch (event.ev) {
      case 'message':
        if (event.key !== undefined) {
          if (event.body === null) this.retained.delete(event.key);
          else this.retained.set(event.key, event);
        } else if (event.kind === 'chat' && event.seq > this.readSeq && this.status !== 'catching_up') {
          if (event.from === this.client.user()) this.#mark({ read: event.seq });
          else this.unread += 1;
        }
        break;
      case 'edited':
      case 'deleted':
        for (const [key, message] of this.retained) {
          if (message.seq !== event.of) continue;
          if (event.ev === 'deleted') this.retained.delete(key);
          else this.retained.set(key, { ...message, body: event.body });
        }
        break;
      case 'read':
        this.#mark(event);
        break;
      case 'joined': {
        if (!member) this.membersTotal += 1;
        const { name, role, attributes } = event;
        this.members.set(user, { user, name, role, attributes, ready: false, away: false });
        break;
      }
      case 'left':
      case 'kicked':
      case 'banned':
        if (this.members.delete(user)) this.membersTotal -= 1;
        break;
      case 'host_changed': {
        const before = this.members.get(this.host ?? '');
        if (before?.role === 'host') before.role = 'player';
        this.host = user ?? null;
        if (member) member.role = 'host';
        break;
      }
      case 'away':
      case 'back':
        if (member) member.away = event.ev === 'away';
        break;
      case 'ready':
        if (member) member.ready = event.ready ?? true;
        break;
      case 'game_started':
      case 'game_finished':
        this.game = event.ev === 'game_started' ? event.game : null;
        if (event.ev === 'game_finished') for (const each of this.members.values()) each.ready = false;
        break;
      case 'locked':
        this.settings = { ...this.settings, locked: event.locked };
        break;
      case 'updated':
        if (event.settings) this.settings = event.settings; // all of them, those without a value left out
        if (member && event.attributes) member.attributes = event.attributes;
        if (member && event.role) member.role = event.role;
        break;
    }
  }
}
