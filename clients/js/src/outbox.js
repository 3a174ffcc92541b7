import { MlmsError } from './error.js';

/** The server knows a nonce for 5 minutes; a repeat near that age could become a second event. */
const NONCE_MS = 270_000;
const UNCLEAR = 'no answer in time; it may or may not have happened';

/**
 * @typedef {object} Command
 * @property {number} id
 * @property {string} op
 * @property {any} frame
 * @property {string | Uint8Array} text the frame as it is sent
 * @property {string} [lobby]
 * @property {string} [key] latest wins: replaces a waiting one with the same key
 * @property {boolean} repeatable whether sending it twice is harmless
 * @property {boolean} [urgent] part of the recovery: first in line, and void once the connection is lost
 * @property {number} [firstSentAt]
 * @property {number} [sentAt] on this connection
 * @property {(ok: any) => void} resolve
 * @property {(error: Error) => void} reject
 *
 * @typedef {object} OutboxOptions
 * @property {number} countMax commands held, waiting or unanswered; beyond it they are refused with `outbox_full`
 * @property {number} bytesMax the same in bytes
 * @property {number} bufferedMax bytes in the socket above which nothing more is written
 * @property {number} replyTimeoutMs after which an unanswered command is repeated
 * @property {() => number} now
 * @property {(command: Command) => boolean} mayGo whether its lobby can take it now
 * @property {(frame: any) => string | Uint8Array} encode
 * @property {(text: string | Uint8Array) => boolean} write
 * @property {() => number} buffered
 * @property {(chat: boolean, now: number) => number} pace
 * @property {() => void} onSilence an urgent command found no answer
 */

/**
 * The commands that have no answer yet, in their order: those sent on this connection and those that wait. Bounded.
 * What was sent and can be repeated goes first in line on the next connection.
 */
export class Outbox {
  /** @type {Map<number, Command>} */
  #sent = new Map();
  /** @type {Command[]} */
  #waiting = [];
  #bytes = 0;
  #lastId = 0;
  frameBytesMax = 65_536;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {OutboxOptions} options */
  constructor(options) {
    this.options = options;
  }

  /** Commands without an answer. */
  get size() {
    return this.#sent.size + this.#waiting.length;
  }

  /**
   * @param {string} op
   * @param {any} fields
   * @param {{repeatable: boolean, urgent?: boolean, key?: string, onOk?: (ok: any) => void}} how
   *   `onOk` runs before any later frame is read
   * @returns {Promise<any>}
   */
  push(op, fields, { repeatable, urgent, key, onOk }) {
    return new Promise((resolve, reject) => {
      this.#lastId = (this.#lastId % 0xffff_ffff) + 1;
      const frame = { id: this.#lastId, op, ...fields };
      const text = this.options.encode(frame);
      const settle = (/** @type {any} */ ok) => {
        onOk?.(ok);
        resolve(ok);
      };
      /** @type {Command} */
      const command = { id: frame.id, op, frame, text, lobby: fields.lobby, key, repeatable, urgent, resolve: settle, reject };
      const refuse = (/** @type {string} */ code, /** @type {string} */ why) => reject(this.#error(command, code, why));
      if (key !== undefined) this.#replace(key);
      if (byteLength(text) > this.frameBytesMax) return refuse('too_large', 'the message is too long');
      const full = this.size >= this.options.countMax || this.#bytes + text.length > this.options.bytesMax;
      if (full && !urgent) return refuse('outbox_full', 'too many messages wait for the server');
      this.#bytes += text.length;
      if (urgent) this.#waiting.unshift(command);
      else this.#waiting.push(command);
      this.flush();
    });
  }

  /** Writes what may go, oldest first, as far as the socket, the rates and the lobbies allow. */
  flush() {
    clearTimeout(this.#timer);
    const now = this.options.now();
    let again = this.#repeatAfter(now);
    const stay = [];
    let blocked = false;
    for (const command of this.#waiting.splice(0)) {
      if (!blocked && !command.urgent && this.options.buffered() > this.options.bufferedMax) {
        blocked = true;
        again = Math.min(again, 50); // no platform tells when a socket has drained
      }
      if (blocked || !(command.urgent || this.options.mayGo(command))) stay.push(command);
      else if (this.#tooOld(command, now)) this.#drop(command, 'timeout', UNCLEAR);
      else {
        const wait = command.urgent ? 0 : this.options.pace(command.frame.kind === 'chat', now);
        if (wait === 0 && this.options.write(command.text)) {
          command.sentAt = now;
          command.firstSentAt ??= now;
          this.#sent.set(command.id, command);
          again = Math.min(again, this.options.replyTimeoutMs);
        } else {
          blocked = true;
          if (wait > 0) again = Math.min(again, wait);
          stay.push(command);
        }
      }
    }
    this.#waiting = stay;
    if (again < Infinity) this.#timer = setTimeout(() => this.flush(), again);
  }

  /** Takes the server's reply. @param {any} frame */
  answer(frame) {
    const command = this.#take(frame.id);
    if (!command) return; // answered before: a repeat's second answer
    const { op, lobby } = command;
    if (frame.err) command.reject(MlmsError.fromWire(frame.err, { op, lobby }));
    else command.resolve(frame.ok ?? {});
  }

  /**
   * The own message came back as an event: it happened, whatever becomes of the reply.
   * @param {string} lobby @param {string} nonce @param {any} ok
   */
  confirm(lobby, nonce, ok) {
    for (const command of [...this.#sent.values(), ...this.#waiting]) {
      if (command.lobby !== lobby || command.frame.nonce !== nonce) continue;
      this.#take(command.id)?.resolve(ok);
    }
  }

  /** The connection is lost: what can be repeated waits for the next one, in its order. */
  disconnected() {
    clearTimeout(this.#timer);
    const sent = [...this.#sent.values()];
    this.#sent.clear();
    const all = [...sent, ...this.#waiting];
    this.#waiting = all.filter((command) => !command.urgent && (command.repeatable || command.sentAt === undefined));
    for (const command of all) {
      const kept = !command.urgent && (command.repeatable || command.sentAt === undefined);
      if (!kept) this.#drop(command, 'connection_lost', 'the connection was lost; it may or may not have arrived');
      command.sentAt = undefined;
    }
    // The order of writing, which the urgent ones and a slow lobby may have disturbed, is the order of ids.
    this.#waiting.sort((a, b) => a.id - b.id);
  }

  /**
   * Refuses everything that is held, or what waits for one lobby: what was sent there still gets its answer, as the
   * `close` that ended it.
   * @param {Error} error @param {string} [lobby]
   */
  refuse(error, lobby) {
    const held = lobby === undefined ? [...this.#sent.values(), ...this.#waiting] : this.#waiting.filter((command) => command.lobby === lobby);
    for (const command of held) this.#take(command.id)?.reject(error);
    if (this.size === 0) clearTimeout(this.#timer);
  }

  /** Refuses what is under way on this connection. @param {string} code @param {string} why */
  refuseSent(code, why) {
    for (const command of [...this.#sent.values()]) this.#take(command.id)?.reject(this.#error(command, code, why));
  }

  /** Puts back what found no answer in time. @param {number} now @returns {number} when to look again */
  #repeatAfter(now) {
    const { replyTimeoutMs } = this.options;
    let next = Infinity;
    for (const command of [...this.#sent.values()]) {
      const left = (command.sentAt ?? now) + replyTimeoutMs - now;
      if (left > 0) {
        next = Math.min(next, left);
      } else if (command.urgent) {
        queueMicrotask(() => this.options.onSilence());
        return Infinity;
      } else if (command.repeatable) {
        this.#sent.delete(command.id);
        command.sentAt = undefined;
        this.#waiting.push(command);
      } else {
        this.#take(command.id)?.reject(this.#error(command, 'timeout', UNCLEAR));
      }
    }
    this.#waiting.sort((a, b) => Number(b.urgent ?? false) - Number(a.urgent ?? false) || a.id - b.id);
    return next;
  }

  /** @param {Command} command @param {number} now */
  #tooOld({ frame, firstSentAt }, now) {
    return frame.nonce !== undefined && firstSentAt !== undefined && now - firstSentAt > NONCE_MS;
  }

  /** @param {string} key */
  #replace(key) {
    for (const old of this.#waiting.filter((command) => command.key === key)) this.#take(old.id)?.resolve({});
  }

  /** @param {Command} command @param {string} code @param {string} why */
  #drop(command, code, why) {
    this.#bytes -= command.text.length;
    command.reject(this.#error(command, code, why));
  }

  /** @param {number} id @returns {Command | undefined} no longer held */
  #take(id) {
    let command = this.#sent.get(id);
    if (command) {
      this.#sent.delete(id);
    } else {
      const at = this.#waiting.findIndex((waiting) => waiting.id === id);
      if (at >= 0) [command] = this.#waiting.splice(at, 1);
    }
    if (command) this.#bytes -= command.text.length;
    return command;
  }

  /** @param {Command} command @param {string} code @param {string} why */
  #error({ op, lobby }, code, why) {
    return new MlmsError(code, why, { op, lobby });
  }
}

/** @param {string | Uint8Array} text */
function byteLength(text) {
  if (typeof text !== 'string') return text.length;
  return new TextEncoder().encode(text).length;
}
