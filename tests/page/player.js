/** A player in a browser's window, in verbs. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export function openBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
}

export class Player {
  /** What the browser complained about, beyond the lost connections that a test makes. */
  complaints = [];

  /** @param {import('playwright-core').BrowserContext} context @param {string} url */
  static async open(context, url) {
    const player = new Player();
    player.url = url;
    player.page = await context.newPage();
    player.page.on('pageerror', (error) => player.complaints.push(String(error)));
    player.page.on('console', (message) => {
      const network = /WebSocket connection to|Failed to load resource/.test(message.text());
      if (message.type() === 'error' && !network) player.complaints.push(message.text());
    });
    await player.page.addInitScript(() => {
      addEventListener('securitypolicyviolation', (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
    });
    await player.page.goto(url);
    return player;
  }

  /** Opens the page and takes a name. */
  static async named(context, url, name) {
    const player = await Player.open(context, url);
    await player.choose(name);
    return player;
  }

  async choose(name) {
    await this.page.getByLabel('Your name').fill(name);
    await this.page.getByRole('button', { name: 'Enter' }).click();
    await this.page.locator('#list-view').waitFor();
  }

  /** Creates a lobby and is in it. @returns {Promise<string>} its id */
  async creates(name, capacity) {
    await this.page.getByRole('button', { name: 'New lobby' }).click();
    await this.page.getByLabel('Name of the lobby').fill(name);
    if (capacity) await this.page.getByLabel('Places').fill(String(capacity));
    await this.page.getByRole('button', { name: 'Create', exact: true }).click();
    await this.isIn();
    return this.page.evaluate(() => location.hash.slice('#/lobby/'.length));
  }

  /** Follows a link to a lobby. */
  async follows(id) {
    await this.page.goto(`${this.url}#/lobby/${id}`);
  }

  async joins(id) {
    await this.follows(id);
    await this.isIn();
  }

  async isIn() {
    await this.page.waitForFunction(() => !document.getElementById('text').disabled && !document.getElementById('lobby-view').hidden);
  }

  /** Types a message and sends it; it need not have arrived. */
  async says(text) {
    await this.page.getByLabel('Message', { exact: true }).fill(text);
    await this.page.getByLabel('Message', { exact: true }).press('Enter');
  }

  /** Waits until the page shows the text in the place. */
  async sees(place, text) {
    await this.page.locator(place).filter({ hasText: text }).first().waitFor();
  }

  /** The chat messages that the service has, in their order on the page. */
  messages() {
    return this.page.locator('#log .row .body').allTextContents();
  }

  /** Waits until the page shows exactly these messages, and none is under way. */
  async hasMessages(expected) {
    const all = JSON.stringify(expected);
    const shown = () => this.page.evaluate(() => ({
      log: [...document.querySelectorAll('#log .row .body')].map((body) => body.textContent),
      unsent: document.getElementById('unsent').childElementCount,
    }));
    await this.page.waitForFunction((count) => document.querySelectorAll('#log .row .body').length >= count && document.getElementById('unsent').childElementCount === 0, expected.length)
      .catch(async (error) => assert.fail(`${error.message}\nexpected ${all}\nshown ${JSON.stringify(await shown())}`));
    assert.deepEqual((await shown()).log, expected);
  }

  /** The members as `name` or `name host away you`. */
  members() {
    return this.page.locator('#members li').evaluateAll((rows) =>
      rows.map((row) => [row.querySelector('.name'), ...row.querySelectorAll('.tag')].map((part) => part.textContent).join(' ')),
    );
  }

  /** Waits until the members are these. */
  async hasMembers(expected) {
    const all = expected.join('|');
    const read = (text) => [...document.querySelectorAll('#members li')]
      .map((row) => [row.querySelector('.name'), ...row.querySelectorAll('.tag')].map((part) => part.textContent).join(' ')).join('|') === text;
    await this.page.waitForFunction(read, all).catch(async () => assert.deepEqual(await this.members(), expected));
  }

  /** No rule of accessibility is broken, and nothing is wider than the window. */
  async isWellMade() {
    await this.page.evaluate(axe);
    const broken = await this.page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] });
      return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
    });
    assert.deepEqual(broken, []);
    const [wide, window] = await this.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= window, `the page is ${wide} px wide in a window of ${window}`);
  }

  isContent() {
    assert.deepEqual(this.complaints, []);
  }
}
