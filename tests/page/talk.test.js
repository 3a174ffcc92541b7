import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';

import { openBrowser } from './player.js';
import { Service } from './service.js';
import { openWindows } from './windows.js';

let browser;
let service;

before(async () => {
  browser = await openBrowser();
  service = await Service.start({ MLMS_LIMIT_CREATES_PER_MINUTE: '0' });
});
after(async () => {
  await browser?.close();
  await service?.stop();
});

/** Chooses from the menu of the message with this text. */
async function doWith(player, text, action) {
  const row = player.page.locator('#log .row').filter({ has: player.page.locator('.body', { hasText: text }) });
  await row.hover();
  await row.locator('.more').click();
  await player.page.getByRole('menuitem', { name: action, exact: true }).click();
}

/** The reactions at the message with this text, as `emoji count`. */
function reactions(player, text) {
  return player.page.locator('#log .row').filter({ has: player.page.locator('.body', { hasText: text }) }).locator('.reactions button').allTextContents();
}

async function hasReactions(player, text, expected) {
  for (let tries = 0; tries < 200; tries += 1) {
    if ((await reactions(player, text)).join() === expected.join()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.deepEqual(await reactions(player, text), expected);
}

test('messages_are_changed_deleted_and_reacted_to', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  const id = await ann.creates('Speech');
  await bob.joins(id);
  await ann.says('teh first');
  await ann.hasMessages(['teh first']);
  // The arrow up takes up the last own message.
  await ann.presses('ArrowUp');
  await ann.sees('#editing', 'You are changing a message.');
  await ann.page.getByLabel('Message', { exact: true }).fill('the first');
  await ann.presses('Enter');
  for (const player of [ann, bob]) {
    await player.sees('#log .edited', 'edited');
    await player.hasMessages(['the first']);
  }
  await bob.says('a second one');
  await ann.hasMessages(['the first', 'a second one']);
  await doWith(bob, 'the first', 'Party');
  await doWith(ann, 'the first', 'Party');
  for (const player of [ann, bob]) await hasReactions(player, 'the first', ['🎉 2']);
  await ann.isWellMade();
  // Who comes later sees it all; the same reaction again takes it back.
  const cleo = await named('Cleo');
  await cleo.joins(id);
  await cleo.hasMessages(['the first', 'a second one']);
  await hasReactions(cleo, 'the first', ['🎉 2']);
  await bob.page.getByRole('button', { name: '🎉 2: Ann, you' }).or(bob.page.getByRole('button', { name: '🎉 2: you, Ann' })).click();
  for (const player of [ann, bob, cleo]) await hasReactions(player, 'the first', ['🎉 1']);
  // The host deletes what others said, they only their own.
  await cleo.page.locator('#log .row').filter({ hasText: 'a second one' }).locator('.more').click();
  assert.equal(await cleo.page.getByRole('menuitem', { name: 'Delete' }).count(), 0);
  await cleo.presses('Escape');
  await doWith(ann, 'a second one', 'Delete');
  for (const player of [ann, bob, cleo]) {
    await player.sees('#log .body', 'This message was deleted.');
    await player.hasMessages(['the first', 'This message was deleted.']);
  }
  await cleo.page.reload();
  await cleo.isIn();
  await cleo.hasMessages(['the first', 'This message was deleted.']);
  for (const player of [ann, bob, cleo]) player.isContent();
});

test('what_is_new_is_marked_and_whom_a_player_blocks_is_read_no_more', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob, cleo] = [await named('Ann'), await named('Bob'), await named('Cleo')];
  const id = await ann.creates('Corner');
  await bob.joins(id);
  await cleo.joins(id);
  await ann.says('one');
  await bob.hasMessages(['one']);
  await bob.says('two');
  await ann.hasMessages(['one', 'two']);
  // Bob goes elsewhere, and what is said meanwhile is new when he comes back.
  await bob.page.goto(service.url);
  await bob.page.locator('#list-view').waitFor();
  await ann.says('three');
  await cleo.says('four');
  await ann.hasMessages(['one', 'two', 'three', 'four']);
  await bob.joins(id);
  await bob.hasMessages(['one', 'two', 'three', 'four']);
  assert.equal(await bob.page.locator('.new-line + .row .body').textContent(), 'three');
  await bob.isWellMade();
  // A message is reported, and its author is read no more, wherever he writes.
  await doWith(ann, 'four', 'Report…');
  await ann.page.getByLabel('What is wrong with it').fill('rude');
  await ann.isWellMade();
  await ann.page.getByRole('button', { name: 'Report', exact: true }).click();
  await ann.sees('#log .note', 'The message was reported.');
  await doWith(ann, 'four', 'Block');
  await ann.sees('#log .note', 'You do not read any more what Cleo writes.');
  await ann.page.locator('#log .row').filter({ hasText: 'four' }).waitFor({ state: 'hidden' });
  await cleo.says('five');
  await bob.says('six');
  await ann.sees('#log .body', 'six');
  const visible = async (player) => (await player.page.locator('#log .row:visible .body').allTextContents());
  assert.deepEqual(await visible(ann), ['one', 'two', 'three', 'six']);
  assert.ok(!(await ann.page.content()).includes('five'), 'it does not come as far as the page');
  await bob.hasMessages(['one', 'two', 'three', 'four', 'five', 'six']);
  await ann.page.reload();
  await ann.isIn();
  await ann.sees('#log .body', 'six');
  await ann.page.waitForFunction(() => [...document.querySelectorAll('#log .row[data-from]')].filter((row) => row.checkVisibility()).length === 4);
  assert.deepEqual(await visible(ann), ['one', 'two', 'three', 'six']);
  await ann.does('Cleo', 'Unblock');
  await cleo.says('seven');
  await ann.sees('#log .body', 'seven');
  for (const player of [ann, bob, cleo]) player.isContent();
});

test('what_is_told_to_one_member_is_marked_and_reaches_nobody_else', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob, cleo] = [await named('Ann'), await named('Bob'), await named('Cleo')];
  const id = await ann.creates('Whispers');
  await bob.joins(id);
  await cleo.joins(id);
  await ann.hasMembers(['Ann you host', 'Bob', 'Cleo']);
  await ann.says('to all');
  await cleo.hasMessages(['to all']);
  await ann.says('/tell Bob <b>psst</b>');
  for (const player of [ann, bob]) {
    await player.sees('#log .passing .head', 'private');
    await player.sees('#log .passing .body', '<b>psst</b>');
  }
  await bob.isWellMade();
  await ann.says('to all again');
  for (const player of [ann, bob]) await player.hasMessages(['to all', '<b>psst</b>', 'to all again']);
  await cleo.hasMessages(['to all', 'to all again']);
  await ann.says('/tell Bob');
  await ann.sees('#log .note', 'Say what you want to tell.');
  // It is not kept.
  await bob.page.reload();
  await bob.isIn();
  await bob.hasMessages(['to all', 'to all again']);
});

test('a_locked_lobby_opens_by_password_or_invite', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const ann = await named('Ann');
  await ann.page.getByRole('button', { name: 'New lobby' }).click();
  await ann.page.getByLabel('Name of the lobby').fill('Vault');
  await ann.page.getByText('Door', { exact: true }).click();
  await ann.page.getByLabel('Password').fill('sesame');
  await ann.page.getByRole('button', { name: 'Create', exact: true }).click();
  await ann.isIn();
  const id = await ann.page.evaluate(() => location.hash.slice('#/lobby/'.length));
  const bob = await named('Bob');
  await bob.follows(id);
  await bob.sees('#lobby-notice', 'This lobby has a password.');
  await bob.page.getByRole('button', { name: 'Enter it' }).click();
  await bob.page.getByLabel('The password of this lobby').fill('abracadabra');
  await bob.page.getByRole('button', { name: 'Enter', exact: true }).click();
  await bob.page.locator('#ask').waitFor({ state: 'hidden' });
  await bob.sees('#lobby-notice', 'This lobby has a password.');
  await bob.page.getByRole('button', { name: 'Enter it' }).click();
  await bob.page.getByLabel('The password of this lobby').fill('sesame');
  await bob.page.getByRole('button', { name: 'Enter', exact: true }).click();
  await bob.isIn();
  await ann.hasMembers(['Ann you host', 'Bob']);
  // An invite lets somebody in once, by its link alone.
  await ann.page.getByRole('button', { name: 'Invite' }).click();
  await ann.page.getByRole('button', { name: 'Make an invite' }).click();
  await ann.sees('#invite-done', 'An invite was made.');
  const link = await ann.page.locator('#invite-link').inputValue();
  await ann.page.getByRole('button', { name: 'Done' }).click();
  const cleo = await named('Cleo');
  await cleo.page.goto(link);
  await cleo.isIn();
  await ann.hasMembers(['Ann you host', 'Bob', 'Cleo']);
  const dora = await named('Dora');
  await dora.page.goto(link);
  await dora.sees('#lobby-notice', 'This lobby has a password.');
  for (const player of [ann, bob, cleo, dora]) player.isContent();
});

test('a_host_changes_the_settings', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  await bob.joins(await ann.creates('Before', 4));
  assert.equal(await bob.page.getByRole('button', { name: 'Settings' }).count(), 0, 'only the host changes them');
  await ann.page.getByRole('button', { name: 'Settings' }).click();
  await ann.page.getByLabel('Name of the lobby').fill('Afterwards');
  await ann.page.getByText('Talk', { exact: true }).click();
  await ann.page.getByLabel('Words that nobody may write').fill('darn, heck*');
  await ann.page.getByRole('button', { name: 'Save' }).click();
  await bob.sees('#lobby-name', 'Afterwards');
  await bob.sees('#log .system', 'Ann changed the settings');
  await bob.says('what the heckler');
  await bob.sees('#unsent .failed', 'The word filter refused this message.');
  await ann.page.getByRole('button', { name: 'Settings' }).click();
  await ann.page.getByRole('button', { name: 'Close the lobby' }).click();
  await ann.page.getByRole('button', { name: 'Really close it for everybody?' }).click();
  await bob.sees('#lobby-notice', 'This lobby was closed.');
  // Everybody chooses a pet.
  const other = await ann.creates('Zoo');
  await bob.joins(other);
  const pet = () => bob.page.locator(`#arena-pets li[data-user="${userOfAnn}"] .pet`).getAttribute('class');
  const userOfAnn = await ann.user();
  await bob.page.locator(`#arena-pets li[data-user="${userOfAnn}"]`).waitFor();
  const first = await pet();
  await ann.plays('Another pet');
  await bob.page.waitForFunction(({ user, before }) => document.querySelector(`#arena-pets li[data-user="${user}"] .pet`)?.getAttribute('class') !== before, { user: userOfAnn, before: first });
  ann.isContent();
  bob.isContent();
});
