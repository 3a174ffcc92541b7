import assert from 'node:assert/strict';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test, { after, before } from 'node:test';

import { Player, openBrowser } from './player.js';
import { Cable, Service } from './service.js';
import { openWindows } from './windows.js';

let browser;
let service;

before(async () => {
  browser = await openBrowser();
  service = await Service.start({ MLMS_LIMIT_CHATS_PER_S: '0', MLMS_LIMIT_COMMANDS_PER_S: '0', MLMS_LIMIT_CREATES_PER_MINUTE: '0' });
});
after(async () => {
  await browser?.close();
  await service?.stop();
});

const windows = (t, { url = service.url, ...look } = {}) => openWindows(browser, t, url, look);

/** A third player in the page's own client, who says much. */
function crowd(player, lobby, texts) {
  return player.page.evaluate(
    async ({ lobby, texts }) => {
      const { Client } = await import('/client/index.js');
      const response = await fetch('/v1/guests', { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"name":"Cleo"}' });
      const client = new Client({ url: '/ws', token: (await response.json()).token, outboxCountMax: 1000 });
      await client.connect();
      const joined = await client.join(lobby);
      await Promise.all(texts.map((text) => joined.chat(text)));
      await joined.leave();
      client.close();
    },
    { lobby, texts },
  );
}

test('two_tabs_of_one_window_chat', async (t) => {
  const { context } = windows(t);
  const one = await context();
  const named = (name) => Player.named(one, service.url, name);
  const ann = await named('Ann');
  const id = await ann.creates('The Den', 4);
  await ann.sees('#lobby-name', 'The Den');
  const bob = await named('Bob');
  const entry = bob.page.locator(`#list [data-lobby="${id}"]`);
  await entry.filter({ hasText: '1 of 4' }).waitFor();
  await entry.getByRole('link').click();
  await bob.isIn();
  await ann.hasMembers(['Ann you host', 'Bob']);
  await bob.hasMembers(['Ann host', 'Bob you']);
  await ann.sees('#log .system', 'Bob joined');
  await ann.says('hello Bob');
  await bob.sees('#log .body', 'hello Bob');
  await bob.page.getByLabel('Message', { exact: true }).pressSequentially('hi');
  await ann.sees('#typing', 'Bob is typing…');
  await bob.page.getByRole('button', { name: 'Send' }).click();
  await bob.says('line one\nline two');
  for (const player of [ann, bob]) await player.hasMessages(['hello Bob', 'hi', 'line one\nline two']);
  await ann.page.waitForFunction(() => document.getElementById('typing').textContent === '');
  assert.equal(await ann.page.locator('#log .row.own').count(), 1);
  await bob.page.getByRole('button', { name: 'Leave' }).click();
  await ann.hasMembers(['Ann you host']);
  await ann.sees('#log .system', 'Bob left');
  ann.isContent();
  bob.isContent();
});

test('a_reload_keeps_the_name_and_the_lobby', async (t) => {
  const { named } = windows(t);
  const ann = await named('Ann');
  await ann.creates('Home');
  await ann.says('still here');
  await ann.hasMessages(['still here']);
  const user = await ann.user();
  await ann.page.reload();
  await ann.isIn();
  await ann.hasMessages(['still here']);
  await ann.hasMembers(['Ann you host']);
  assert.equal(await ann.user(), user);
  ann.isContent();
});

test('a_closed_window_is_away_and_comes_back', async (t) => {
  const { context, named } = windows(t);
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  const id = await ann.creates('Doorway');
  await bob.joins(id);
  await ann.hasMembers(['Ann you host', 'Bob']);
  const guest = await bob.page.evaluate(() => sessionStorage.getItem('mlms.guest'));
  await bob.page.close();
  await ann.hasMembers(['Ann you host', 'Bob away']);
  await ann.says('where did you go?');
  // The same guest again, as a browser restores a closed tab.
  const page = await (await context()).newPage();
  await page.addInitScript((kept) => sessionStorage.setItem('mlms.guest', kept), guest);
  await page.goto(`${service.url}#/lobby/${id}`);
  bob.page = page;
  await bob.isIn();
  await bob.hasMessages(['where did you go?']);
  await ann.hasMembers(['Ann you host', 'Bob']);
  await bob.hasMembers(['Ann host', 'Bob you']);
  ann.isContent();
  bob.isContent();
});

test('the_keyboard_alone_is_enough', async (t) => {
  const { open, named } = windows(t);
  const ann = await open();
  await ann.hasFocusOn('#name-input');
  await ann.page.keyboard.type('Ann');
  await ann.presses('Enter');
  await ann.hasFocusOn('#list-title');
  await ann.tabsTo('#create-open');
  await ann.presses('Enter');
  await ann.hasFocusOn('#setting-name');
  await ann.presses('Escape');
  await ann.hasFocusOn('#create-open');
  await ann.presses('Enter');
  await ann.hasFocusOn('#setting-name');
  await ann.page.keyboard.type('Keys');
  await ann.presses('Enter');
  await ann.isIn();
  await ann.hasFocusOn('#text');
  await ann.page.keyboard.type('no mouse');
  await ann.presses('Shift+Enter');
  await ann.page.keyboard.type('at all');
  await ann.presses('Enter');
  await ann.hasMessages(['no mouse\nat all']);
  await ann.hasFocusOn('#text');
  const id = await ann.page.evaluate(() => location.hash.slice('#/lobby/'.length));
  await ann.tabsTo('#scroll', 'Shift+Tab');
  await ann.tabsTo('#lobby-leave', 'Shift+Tab');
  await ann.presses('Enter');
  await ann.hasFocusOn('#list-title');
  // Another one finds the lobby in the list, while Ann goes back to it.
  const bob = await named('Bob');
  for (const player of [ann, bob]) {
    await player.page.locator(`#list [data-lobby="${id}"]`).waitFor();
    await player.tabsTo(`#list [data-lobby="${id}"] a`);
    await player.presses('Enter');
    await player.isIn();
  }
  await bob.hasMessages(['no mouse\nat all']);
  await ann.hasMembers(['Ann you host', 'Bob']);
  ann.isContent();
  bob.isContent();
});

test('a_killed_and_restarted_service_loses_and_doubles_nothing', async (t) => {
  const own = await Service.start();
  t.after(() => own.stop());
  const { named } = windows(t, { url: own.url });
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  await bob.joins(await ann.creates('Storm'));
  await ann.says('before');
  for (const player of [ann, bob]) await player.hasMessages(['before']);
  await own.kill();
  for (const player of [ann, bob]) await player.sees('#connection', 'The connection is lost.');
  await ann.says('while away');
  await ann.sees('#unsent .pending', 'while away');
  await ann.sees('#unsent .pending', 'waits for the connection');
  await ann.says('and again');
  await own.run();
  for (const player of [ann, bob]) {
    await player.page.waitForFunction(() => document.getElementById('connection').dataset.kind !== 'lost');
    await player.hasMessages(['before', 'while away', 'and again']);
  }
  await bob.says('after');
  for (const player of [ann, bob]) await player.hasMessages(['before', 'while away', 'and again', 'after']);
  assert.deepEqual(await ann.members(), ['Ann you host', 'Bob']);
  // The token of before is good after it.
  const user = await bob.user();
  await bob.page.reload();
  await bob.isIn();
  assert.equal(await bob.user(), user);
  await bob.hasMessages(['before', 'while away', 'and again', 'after']);
  await bob.hasMembers(['Ann host', 'Bob you']);
  ann.isContent();
  bob.isContent();
});

test('a_service_that_forgot_everything_is_entered_again_under_the_same_name', async (t) => {
  const own = await Service.start();
  t.after(() => own.stop());
  const { named } = windows(t, { url: own.url });
  const ann = await named('Ann');
  const id = await ann.creates('Sandcastle');
  await ann.says('before the flood');
  await ann.hasMessages(['before the flood']);
  const user = await ann.user();
  await ann.page.reload(); // now Ann is not the one who creates it when it is gone
  await ann.isIn();
  await own.kill();
  await ann.sees('#connection', 'The connection is lost.');
  await own.forget();
  await own.run();
  await ann.sees('#lobby-notice', 'There is no such lobby.');
  await ann.page.getByRole('button', { name: 'Create it' }).click();
  await ann.isIn();
  await ann.hasMembers(['Ann you host']);
  await ann.says('after the flood');
  await ann.hasMessages(['after the flood']);
  assert.notEqual(await ann.user(), user); // the old token was signed with a key that is gone
  assert.equal(await ann.page.evaluate(() => location.hash), `#/lobby/${id}`);
  ann.isContent();
});

test('a_cut_cable_loses_and_doubles_nothing', async (t) => {
  const cable = await Cable.to(service);
  t.after(() => cable.close());
  const { named } = windows(t);
  const [ann, bob] = [await named('Ann'), await named('Bob', cable.url)];
  await bob.joins(await ann.creates('Tunnel'));
  const said = ['0'];
  await bob.says('0');
  await ann.hasMessages(said);
  for (let round = 1; round <= 3; round += 1) {
    cable.cut();
    await bob.sees('#connection', 'The connection is lost.');
    await ann.hasMembers(['Ann you host', 'Bob away']);
    for (let i = 1; i <= 5; i += 1) {
      said.push(`ann ${round}.${i}`);
      await ann.says(`ann ${round}.${i}`);
    }
    await ann.hasMessages(said);
    for (let i = 1; i <= 2; i += 1) {
      said.push(`bob ${round}.${i}`);
      await bob.says(`bob ${round}.${i}`);
    }
    cable.mend();
    await bob.page.getByRole('button', { name: 'Try now' }).click({ timeout: 1_000 }).catch(() => {}); // it may be trying already
    await bob.hasMessages(said);
    await ann.hasMessages(said);
    await ann.hasMembers(['Ann you host', 'Bob']);
  }
  ann.isContent();
  bob.isContent();
});

test('who_was_away_too_long_to_resume_begins_again_with_nothing_missing', async (t) => {
  const own = await Service.start({ MLMS_LIMIT_RESUME_EVENTS_MAX: '10', MLMS_LIMIT_CHATS_PER_S: '0' });
  t.after(() => own.stop());
  const cable = await Cable.to(own);
  t.after(() => cable.close());
  const { named } = windows(t, { url: own.url });
  const [ann, bob] = [await named('Ann'), await named('Bob', cable.url)];
  const id = await ann.creates('Long night');
  await bob.joins(id);
  await bob.says('before');
  await ann.hasMessages(['before']);
  cable.cut();
  await bob.sees('#connection', 'The connection is lost.');
  await bob.says('mine');
  const texts = Array.from({ length: 80 }, (_, i) => `message ${i}`);
  await crowd(ann, id, texts);
  cable.mend();
  await bob.page.evaluate(() => document.getElementById('connection-retry').click());
  await ann.hasMessages(['before', ...texts, 'mine']);
  await bob.sees('#log .body', 'mine');
  await bob.page.locator('#scroll').focus();
  // The snapshot shows the newest; what is older is read on the way up.
  for (const first of [texts[0], 'before']) {
    await bob.page.keyboard.press('Home');
    await bob.sees('#log .body', first);
  }
  await bob.hasMessages(['before', ...texts, 'mine']);
  ann.isContent();
  bob.isContent();
});

test('a_connection_cut_in_the_middle_of_talking_loses_and_doubles_nothing', async (t) => {
  const cable = await Cable.to(service);
  t.after(() => cable.close());
  const { named } = windows(t);
  const [ann, bob] = [await named('Ann'), await named('Bob', cable.url)];
  const id = await ann.creates('Rain');
  await bob.joins(id);
  // Cut while sends are under way, as often as the client comes back: replies and events get lost, sends do not.
  const talk = bob.page.evaluate(async () => {
    const field = document.getElementById('text');
    for (let i = 0; i < 60; i += 1) {
      field.value = `m${i}`;
      document.getElementById('composer').requestSubmit();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  for (let i = 0; i < 3; i += 1) {
    await ann.page.waitForFunction((count) => document.querySelectorAll('#log .body').length >= count, 8 * (i + 1));
    cable.cut();
    await bob.page.waitForFunction(() => document.getElementById('connection').dataset.kind === 'lost');
    cable.mend();
    await bob.page.evaluate(() => document.getElementById('connection-retry').click());
  }
  await talk;
  const said = Array.from({ length: 60 }, (_, i) => `m${i}`);
  await bob.hasMessages(said);
  await ann.hasMessages(said);
});

test('scrolling_up_reads_older_messages_in_order', async (t) => {
  const { named } = windows(t);
  const ann = await named('Ann');
  const id = await ann.creates('Archive');
  const texts = Array.from({ length: 170 }, (_, i) => `message ${i}`);
  await crowd(ann, id, texts);
  const bob = await named('Bob');
  await bob.joins(id);
  await bob.hasMessages(texts.slice(-50));
  await bob.page.locator('#scroll').focus();
  for (const shown of [100, 150, 170]) {
    await bob.page.keyboard.press('Home');
    await bob.page.waitForFunction((count) => document.querySelectorAll('#log .body').length >= count, shown - 5);
  }
  await bob.page.keyboard.press('Home');
  await bob.hasMessages(texts);
  assert.equal(await bob.page.locator('#log .from').first().textContent(), 'Cleo');
  await bob.page.evaluate(() => document.getElementById('scroll').scrollTo(0, 500));
  await ann.says('news');
  await bob.page.getByRole('button', { name: 'new message' }).click();
  await bob.hasMessages([...texts, 'news']);
  bob.isContent();
});

test('refusals_are_told_in_words', async (t) => {
  const { named } = windows(t);
  const ann = await named('Ann');
  const id = await ann.creates('Alone', 1);
  const bob = await named('Bob');
  await bob.follows(id);
  await bob.sees('#lobby-notice', 'This lobby is full.');
  await bob.sees(`#list [data-lobby="${id}"]`, '1 of 1 · full');
  await bob.follows('nobody-was-ever-here');
  await bob.sees('#lobby-notice', 'There is no such lobby.');
  await bob.page.getByRole('button', { name: 'Create it' }).click();
  await bob.isIn();
  await bob.hasMembers(['Bob you host']);
  await bob.page.getByLabel('Message', { exact: true }).fill('é'.repeat(2100));
  await bob.page.keyboard.press('Enter');
  await bob.sees('#composer-error', 'too long by 104 bytes');
  ann.isContent();
  bob.isContent();
});

test('a_changed_name_is_a_new_player', async (t) => {
  const { named } = windows(t);
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  const id = await ann.creates('Masks');
  await bob.joins(id);
  await bob.page.getByRole('button', { name: 'Change name' }).click();
  await ann.hasMembers(['Ann you host']);
  await bob.choose('Rob');
  await bob.isIn();
  await ann.hasMembers(['Ann you host', 'Rob']);
});

// The layout follows the width and the contrast the scheme: two of the four see all of both.
for (const [width, height, colorScheme] of [[360, 740, 'light'], [1280, 800, 'dark']]) {
  test(`looks_well_at_${width}_in_${colorScheme}`, async (t) => {
    const folder = await mkdtemp(path.join(tmpdir(), 'mlms-page-look-'));
    t.diagnostic(`pictures in ${folder}`);
    const { open, named } = windows(t, { viewport: { width, height }, colorScheme });
    const picture = async (player, name) => {
      await player.isWellMade();
      await player.page.screenshot({ path: path.join(folder, `${name}-${width}-${colorScheme}.png`) });
    };
    const cable = await Cable.to(service);
    t.after(() => cable.close());
    const nobody = await open();
    await picture(nobody, 'name');
    const ann = await named('Ann', cable.url);
    const id = await ann.creates('Friday night ⚔️', 8);
    const bob = await named('Bartholomew the Magnificent');
    await picture(bob, 'list');
    await bob.page.getByRole('button', { name: 'New lobby' }).click();
    await picture(bob, 'create');
    await bob.joins(id);
    const talk = [
      [bob, 'Hi! Is this the lobby for tonight?'], [ann, 'It is. Two more places are free.'], [ann, 'Bring snacks 🍕'],
      [bob, 'A longer message, to see how it wraps when somebody explains the rules of the game at some length: everyone draws two cards, the youngest begins, and whoever laughs first loses.'],
      [ann, 'Deal.'],
    ];
    const said = [];
    for (const [player, text] of talk) {
      await player.says(text);
      said.push(text);
      await bob.hasMessages(said);
    }
    await ann.hasMessages(said);
    await bob.page.getByLabel('Message', { exact: true }).pressSequentially('hm');
    await ann.sees('#typing', 'typing');
    await picture(ann, 'lobby');
    cable.cut();
    await ann.sees('#connection', 'The connection is lost.');
    await bob.hasMembers(['Ann host away', 'Bartholomew the Magnificent you']);
    await ann.says('Are you still there?');
    await picture(ann, 'lost');
    await picture(bob, 'away');
    if (width < 800) {
      await bob.page.getByRole('button', { name: 'Members' }).click();
      await picture(bob, 'members');
    }
  });
}
