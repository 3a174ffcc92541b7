/**
 * @typedef {'first' | 'expiring' | 'refused'} TokenReason
 * @typedef {string | ((reason: TokenReason) => string | Promise<string>)} TokenProvider
 * A token, or a function that gives one. `refused`: the server may have refused the last one (a browser cannot tell
 * that from a network failure), so check it. An error with `permanent: true` ends the client.
 */

/** Holds the newest token and asks the provider for the next one, never twice at once. */
export class TokenSource {
  /** @type {string | undefined} */
  #token;
  /** @type {Promise<string> | undefined} */
  #asking;
  /** @type {TokenReason} */
  #reason = 'first';

  /** @param {TokenProvider} provider @param {() => number} now the server's time, as far as known */
  constructor(provider, now) {
    this.provider = provider;
    this.now = now;
  }

  /** Whether another token can be had. */
  get renewable() {
    return typeof this.provider === 'function';
  }

  /** The held token. */
  get token() {
    return this.#token;
  }

  /** When the held token ends (Unix ms), if that can be read from it. */
  get expiresAt() {
    return this.#token === undefined ? undefined : expiryOf(this.#token);
  }

  /** The held token may be bad: the next `get` asks again. */
  doubt() {
    if (this.#token !== undefined) this.#reason = 'refused';
  }

  /** A token that holds a while longer. @returns {Promise<string>} */
  async get() {
    const ends = this.expiresAt;
    if (this.#token !== undefined && this.#reason !== 'refused') {
      if (ends === undefined || ends - this.now() > 5_000) return this.#token;
      this.#reason = 'expiring';
    }
    return this.refresh(this.#reason);
  }

  /** @param {TokenReason} reason @returns {Promise<string>} */
  refresh(reason) {
    const { provider } = this;
    if (typeof provider !== 'function') {
      this.#token = provider;
      return Promise.resolve(provider);
    }
    this.#asking ??= Promise.resolve()
      .then(() => provider(reason))
      .then((token) => {
        this.#reason = 'first';
        return (this.#token = token);
      })
      .finally(() => (this.#asking = undefined));
    return this.#asking;
  }
}

/** The `exp` of a JWT in Unix milliseconds. @param {string} token @returns {number | undefined} */
export function expiryOf(token) {
  try {
    const payload = JSON.parse(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')));
    return Number.isFinite(payload.exp) ? payload.exp * 1000 : undefined;
  } catch {
    return undefined; // an opaque token, which only the server can read
  }
}
