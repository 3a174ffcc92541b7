/**
 * Keeps within the server's rates (`welcome.limits`), so that what gathered while the connection was lost leaves a
 * little slower and in order, rather than being refused in part.
 */
export class Pace {
  #commands = new Bucket();
  #chats = new Bucket();

  /** A new session starts with full buckets. @param {Record<string, number>} limits @param {number} now */
  reset(limits, now) {
    this.#commands = new Bucket(limits.commands_per_s, limits.commands_burst, now);
    this.#chats = new Bucket(limits.chats_per_s, limits.chats_burst, now);
  }

  /**
   * Takes leave to send one command.
   * @param {boolean} chat
   * @param {number} now
   * @returns {number} 0: go; else the milliseconds to wait
   */
  take(chat, now) {
    const wait = Math.max(this.#commands.wait(now), chat ? this.#chats.wait(now) : 0);
    if (wait > 0) return wait;
    this.#commands.spend();
    if (chat) this.#chats.spend();
    return 0;
  }
}

class Bucket {
  /** @param {number} [perSecond] 0 or unknown: no limit @param {number} [burst] @param {number} [now] */
  constructor(perSecond = 0, burst = perSecond, now = 0) {
    this.perMs = perSecond / 1000;
    this.burst = Math.max(1, burst);
    this.level = this.burst;
    this.at = now;
  }

  /** @param {number} now */
  wait(now) {
    if (!(this.perMs > 0)) return 0;
    this.level = Math.min(this.burst, this.level + Math.max(0, now - this.at) * this.perMs);
    this.at = now;
    return this.level >= 1 ? 0 : Math.ceil((1 - this.level) / this.perMs);
  }

  spend() {
    this.level -= 1;
  }
}
