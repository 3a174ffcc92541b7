/**
 * One WebSocket from its first byte to its end. Says when the server welcomed it, hands on each frame, notices a
 * connection that died silently, and reports its end exactly once. It never reconnects.
 *
 * @typedef {object} End
 * @property {number} code the close code; 1006 when there was none
 * @property {string} reason
 * @property {boolean} welcomed whether the server had accepted the session
 * @property {number} [status] the HTTP status of a refusal, where the platform tells
 * @property {number} [retryAfterMs]
 *
 * @typedef {object} SocketOptions
 * @property {string} url
 * @property {string} token
 * @property {any} WebSocket
 * @property {{encode: (value: any) => Uint8Array, decode: (bytes: Uint8Array) => any}} [msgpack]
 * @property {number} connectTimeoutMs from the start to the welcome
 * @property {number} pongTimeoutMs how long a silent server may take to answer
 * @property {(welcome: any) => void} onWelcome
 * @property {(frame: any) => void} onFrame
 * @property {(end: End) => void} onEnd
 */
export class Socket {
  #welcomed = false;
  #ended = false;
  #heardAt = 0;
  #heartbeatMs = 25_000;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** @param {SocketOptions} options */
  constructor(options) {
    this.options = options;
    // The third argument is for the `ws` package: one event a tick as in a browser, so that who awaits a join's ok
    // can listen before the next event is there. Others ignore it.
    const protocols = [options.msgpack ? 'mlms.v1.msgpack' : 'mlms.v1.json', `bearer.${options.token}`];
    this.ws = new options.WebSocket(options.url, protocols, { allowSynchronousEvents: false });
    this.ws.binaryType = 'arraybuffer';
    this.ws.onmessage = (/** @type {any} */ event) => this.#read(event.data);
    this.ws.onclose = (/** @type {any} */ event) => this.#end({ code: event.code || 1006, reason: event.reason });
    this.ws.onerror = () => {}; // a close follows
    this.#watchNode();
    this.#timer = setTimeout(() => this.abort('no welcome in time'), options.connectTimeoutMs);
  }

  get bufferedAmount() {
    return this.ws.bufferedAmount ?? 0;
  }

  /** Sends one frame. @param {string | Uint8Array} text @returns {boolean} false: the socket is not open */
  write(text) {
    if (this.#ended || this.ws.readyState !== 1) return false;
    this.ws.send(text);
    return true;
  }

  /** Ends it without waiting for the peer. @param {string} reason @param {number} [code] */
  abort(reason, code = 1006) {
    this.#end({ code, reason });
  }

  /** Asks the server for a sign of life now, as after the network changed. */
  probe() {
    if (!this.#welcomed || this.#ended) return;
    const ping = { op: 'ping', id: 0 };
    this.write(this.options.msgpack ? this.options.msgpack.encode(ping) : JSON.stringify(ping));
    const askedAt = Date.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      // A timer that fires far too late means that this computer slept, not that the server is silent.
      const slept = Date.now() - askedAt > this.options.pongTimeoutMs * 1.5;
      if (this.#heardAt >= askedAt) this.#listen();
      else if (slept) this.probe();
      else this.abort('no answer', 4003);
    }, this.options.pongTimeoutMs);
  }

  #listen() {
    clearTimeout(this.#timer);
    const silence = Date.now() - this.#heardAt;
    const wait = Math.max(0, this.#heartbeatMs - silence);
    this.#timer = setTimeout(() => {
      if (Date.now() - this.#heardAt >= this.#heartbeatMs) this.probe();
      else this.#listen();
    }, wait);
  }

  /** @param {any} data */
  #read(data) {
    if (this.#ended) return;
    this.#heardAt = Date.now();
    let frame;
    try {
      frame = typeof data === 'string' ? JSON.parse(data) : this.options.msgpack?.decode(new Uint8Array(data));
    } catch {
      return this.abort('a frame that cannot be read');
    }
    if (this.#welcomed) return this.options.onFrame(frame);
    if (frame?.ev !== 'welcome') return this.options.onFrame(frame); // a bye or an error may come instead
    this.#welcomed = true;
    if (frame.heartbeat_ms > 0) this.#heartbeatMs = frame.heartbeat_ms;
    this.#listen();
    this.options.onWelcome(frame);
  }

  /** @param {Omit<End, 'welcomed'>} end */
  #end(end) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.ws.onmessage = this.ws.onclose = null;
    try {
      if (end.code === 1000 || !this.ws.terminate) this.ws.close(1000);
      else this.ws.terminate();
    } catch {
      // a socket that never opened cannot be closed on every platform, and has nothing to close
    }
    this.options.onEnd({ ...end, reason: end.reason ?? '', welcomed: this.#welcomed });
  }

  /** The `ws` package shows what a browser hides: the server's pings and the HTTP status of a refusal. */
  #watchNode() {
    const { ws } = this;
    if (typeof ws.on !== 'function') return;
    ws.on('ping', () => (this.#heardAt = Date.now()));
    ws.on('unexpected-response', (/** @type {any} */ request, /** @type {any} */ response) => {
      request.destroy();
      const seconds = Number(response.headers['retry-after']);
      this.#end({
        code: 1006,
        reason: `refused with HTTP ${response.statusCode}`,
        status: response.statusCode,
        retryAfterMs: seconds > 0 ? seconds * 1000 : undefined,
      });
    });
  }
}
