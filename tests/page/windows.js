/** Windows of one browser, which are as many players. */
import { Player } from './player.js';

/** @param {import('playwright-core').Browser} browser @param {any} t the test @param {string} url @param {object} [look] */
export async function openWindows(browser, t, url, look = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...look });
  context.setDefaultTimeout(60_000); // the machine may be busy
  t.after(() => context.close());
  return { context, named: (name, at = url) => Player.named(context, at, name) };
}
