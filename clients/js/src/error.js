/**
 * Why a command did not succeed. `code` is one of the protocol's error codes, or one of the client's own:
 * `connection_lost` (an unsequenced message was under way; it may have arrived), `outbox_full`, `closed`.
 */
export class MlmsError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retryMs?: number, op?: string, lobby?: string}} [more] `retryMs`: trying again after it can succeed
   */
  constructor(code, message, more = {}) {
    super(message || code);
    this.name = 'MlmsError';
    this.code = code;
    this.retryMs = more.retryMs;
    this.op = more.op;
    this.lobby = more.lobby;
  }

  /**
   * @param {any} err a reply's `err` or an `error` event
   * @param {{op?: string, lobby?: string}} [of]
   */
  static fromWire(err, of = {}) {
    return new MlmsError(String(err?.code ?? 'internal'), String(err?.message ?? ''), { retryMs: err?.retry_ms, ...of });
  }
}
