/** Windows of a browser, a player each. */
import { Player } from './player.js';

/**
 * @param {import('playwright-core').Browser} browser
 * @param {any} t the test, at whose end they close
 * @param {string} url
 * @param {object} [look] size and colours of the windows
 */
export function openWindows(browser, t, url, look = {}) {
  /** A window of its own: the browser draws a tab in the background only once a second. */
  const context = async () => {
    const made = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...look });
    made.setDefaultTimeout(60_000); // the machine may be busy
    t.after(() => made.close());
    return made;
  };
  return {
    context,
    open: async (at = url) => Player.open(await context(), at),
    named: async (name, at = url) => Player.named(await context(), at, name),
  };
}
