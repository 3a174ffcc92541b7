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

  /** No rule of accessibility is broken, and the page is exactly as large as the window. */
  async isWellMade() {
    await this.page.evaluate(() => Promise.allSettled(document.getAnimations().map(({ finished }) => finished)));
    await this.page.evaluate(axe);
    const broken = await this.page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'] });
      return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
    });
    assert.deepEqual(broken, []);
    const [width, height, bottom] = await this.page.evaluate(() => {
      const { scrollWidth, scrollHeight } = document.documentElement;
      return [scrollWidth - innerWidth, scrollHeight - innerHeight, document.querySelector('main').getBoundingClientRect().bottom - innerHeight];
    });
    assert.ok(width <= 0, `the page is ${width} px wider than the window`);
    assert.ok(height <= 0, `the page is ${height} px higher than the window`);
    assert.ok(Math.abs(bottom) < 1, `the page ends ${bottom} px from the end of the window`);
  }

  /** Presses keys one after the other, as someone without a mouse. */
  async presses(...keys) {
    for (const key of keys) await this.page.keyboard.press(key);
  }

  /** Goes on with the tabulator until the focus is on the element. */
  async tabsTo(selector, key = 'Tab') {
    for (let i = 0; i < 50; i += 1) {
      if (await this.page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
      await this.page.keyboard.press(key);
    }
    assert.fail(`${selector} cannot be reached with ${key}; the focus is on ${await this.page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200))}`);
  }

  /** Waits until the focus is on the element. */
  async hasFocusOn(selector) {
    await this.page.waitForFunction((wanted) => document.activeElement?.matches(wanted), selector)
      .catch(async () => assert.fail(`the focus is not on ${selector} but on ${await this.page.evaluate(() => document.activeElement?.outerHTML.slice(0, 200))}`));
  }

  /** Presses a button of the arena that can be pressed. */
  async plays(name) {
    const button = this.page.locator('#arena-actions button:not([aria-disabled=true])').filter({ hasText: name });
    await button.first().click();
  }

  /** Waits until the own pet is on turn, or the battle is over. @returns {Promise<boolean>} whether it is on turn */
  async isOnTurn() {
    const status = await this.page.waitForFunction(() => {
      const { phase } = document.getElementById('arena').dataset;
      if (phase === 'decided' || phase === 'finished') return 'over';
      const able = document.querySelector('#arena-actions .primary:not([aria-disabled=true])');
      return phase === 'playing' && able ? 'turn' : null;
    });
    return (await status.jsonValue()) === 'turn';
  }

  /** The pets' health as `name: health`, as the page shows it. */
  pets() {
    return this.page.locator('#arena-pets li').evaluateAll((cards) => cards.map((card) => [card.dataset.user, card.querySelector('meter')?.value]));
  }

  /** Chooses from the menu beside a member. */
  async does(name, action) {
    await this.page.getByRole('button', { name: `What to do about ${name}`, exact: true }).click();
    await this.page.getByRole('menuitem', { name: action, exact: true }).click();
  }

  /** The own user id. */
  user() {
    return this.page.evaluate(() => JSON.parse(sessionStorage.getItem('mlms.guest')).user);
  }

  isContent() {
    assert.deepEqual(this.complaints, []);
  }
}
