/**
 * When to try again. Full jitter from the first retry: a random point in [0, base · 2ⁿ], so that the players of a
 * node that died do not come back as one wave. A `bye` of the server goes before.
 */
export class Backoff {
  #attempt = 0;

  /** @param {{baseMs: number, maxMs: number, random: () => number}} options */
  constructor(options) {
    this.options = options;
  }

  /** How many tries have followed each other without a connection that lasted. */
  get attempt() {
    return this.#attempt;
  }

  /** The connection lasted: the next loss is a new one. */
  reset() {
    this.#attempt = 0;
  }

  /**
   * The wait before the next try, in milliseconds.
   * @param {{reconnect?: string, window_ms?: number[]}} [bye] what the server said before it closed
   * @param {number} [leastMs] a `Retry-After`
   */
  next(bye, leastMs = 0) {
    const { baseMs, maxMs, random } = this.options;
    const first = this.#attempt === 0;
    const jitter = random() * Math.min(maxMs, baseMs * 2 ** Math.min(this.#attempt, 20));
    this.#attempt += 1;
    if (bye?.reconnect === 'window') {
      const [from, to] = windowOf(bye.window_ms);
      return from + random() * (to - from);
    }
    // `now` twice in a row without a connection that lasted is a loop, which backs off like any other.
    if (bye?.reconnect === 'now' && first) return 0;
    return leastMs + jitter;
  }
}

/** @param {any} window @returns {[number, number]} */
function windowOf(window) {
  const [from, to] = Array.isArray(window) ? window.map(Number) : [];
  return from >= 0 && to >= from ? [from, to] : [0, 1000];
}
