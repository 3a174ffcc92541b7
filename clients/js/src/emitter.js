/**
 * Named events. A listener that throws is reported and disturbs nobody else.
 * @template {Record<string, any[]>} Events the arguments of each, by name
 */
export class Emitter {
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();

  /**
   * Calls `listener` on every event of this name; `'*'` on every event at all, with the name first and after the others.
   * @template {(keyof Events & string) | '*'} Name
   * @param {Name} name
   * @param {(...args: Name extends '*' ? [name: string, ...args: any[]] : Events[Name]) => void} listener
   * @returns {() => void} ends the subscription
   */
  on(name, listener) {
    const set = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, set.add(listener));
    return () => void set.delete(listener);
  }

  /**
   * Waits for the next event of this name that `accept` takes.
   * @template {keyof Events & string} Name
   * @param {Name} name
   * @param {(value: Events[Name][0]) => boolean} [accept]
   * @returns {Promise<Events[Name][0]>} the event's first argument
   */
  next(name, accept = () => true) {
    return new Promise((resolve) => {
      const off = this.on(name, /** @type {any} */ ((/** @type {any} */ value) => {
        if (!accept(value)) return;
        off();
        resolve(value);
      }));
    });
  }

  /**
   * @param {string} name
   * @param {...any} args
   */
  emit(name, ...args) {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) call(listener, args);
    for (const listener of [...(this.#listeners.get('*') ?? [])]) call(listener, [name, ...args]);
  }
}

/** @param {Function} listener @param {any[]} args */
function call(listener, args) {
  try {
    listener(...args);
  } catch (error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else console.error(error);
  }
}
