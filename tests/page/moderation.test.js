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

test('a_host_kicks_and_bans', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob, cleo] = [await named('Ann'), await named('Bob'), await named('Cleo')];
  const id = await ann.creates('Order');
  for (const player of [bob, cleo]) await player.joins(id);
  await ann.hasMembers(['Ann you host', 'Bob', 'Cleo']);
  await bob.page.getByRole('button', { name: 'What to do about Ann' }).click();
  assert.deepEqual(await bob.page.getByRole('menuitem').allTextContents(), ['Block'], 'players do not moderate');
  await bob.presses('Escape');
  await ann.does('Bob', 'Kick…');
  await ann.page.getByLabel('Reason').fill('too loud');
  await ann.page.getByRole('button', { name: 'Kick', exact: true }).click();
  await bob.sees('#lobby-notice', 'You were kicked from this lobby.');
  await cleo.sees('#log .system', 'Bob was kicked by Ann: too loud');
  await ann.sees('#log .note', 'Bob was kicked.');
  await ann.hasMembers(['Ann you host', 'Cleo']);
  await ann.says('he is gone');
  await cleo.hasMessages(['he is gone']);
  await bob.page.getByRole('button', { name: 'Join again' }).click();
  await bob.hasMembers(['Ann host', 'Bob you', 'Cleo']);
  await ann.does('Bob', 'Ban…');
  await ann.page.getByLabel('For how long').selectOption('3600');
  await ann.page.getByRole('button', { name: 'Ban', exact: true }).click();
  await bob.sees('#lobby-notice', 'You are banned from this lobby.');
  await bob.page.getByRole('button', { name: 'Join again' }).click();
  await bob.sees('#lobby-notice', 'You are banned from this lobby.');
  await ann.hasMembers(['Ann you host', 'Cleo']);
  for (const player of [ann, bob, cleo]) player.isContent();
});

test('commands_in_the_composer_are_answered', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob] = [await named('Ann'), await named('Bob the Builder')];
  const id = await ann.creates('Slash');
  await bob.joins(id);
  await ann.hasMembers(['Ann you host', 'Bob the Builder']);
  for (const [text, answer] of [
    ['/nonsense', 'There is no command /nonsense.'],
    ['/kick', 'Say the name of a member, too.'],
    ['/kick Zoe', 'Nobody here is called Zoe.'],
    ['/mute bob the builder 10m shouting', 'Bob the Builder is muted.'],
  ]) {
    await ann.says(text);
    await ann.sees('#log .note', answer);
  }
  await ann.page.getByLabel('Message', { exact: true }).fill('');
  await bob.sees('#log .system', 'You were muted by Ann until');
  await bob.says('hello?');
  await bob.sees('#unsent .failed', 'You are muted in this lobby.');
  await bob.page.getByRole('button', { name: 'Discard' }).click();
  await bob.says('/kick Ann');
  await bob.sees('#log .note', 'You may not do this here.');
  await ann.says('/unmute Bob the Builder');
  await bob.sees('#log .system', 'You may write again');
  await bob.page.getByLabel('Message', { exact: true }).fill('');
  await bob.says('thank you');
  await ann.hasMessages(['thank you']);
  await ann.says('/role Bob the Builder moderator');
  await bob.hasMembers(['Ann host', 'Bob the Builder you moderator']);
  await ann.page.getByLabel('Message', { exact: true }).fill('/tra');
  await ann.sees('#command-hint', '/transfer name: makes another member the host');
  await ann.presses('Tab');
  await ann.page.keyboard.type('Bob the Builder');
  await ann.presses('Enter');
  await ann.hasMembers(['Bob the Builder host', 'Ann you']);
  await bob.says('/ban Ann');
  await ann.sees('#lobby-notice', 'You are banned from this lobby.');
  await bob.says('/unban Ann');
  await bob.sees('#log .note', 'Ann may join again.');
  await ann.page.getByRole('button', { name: 'Join again' }).click();
  await ann.hasMembers(['Bob the Builder host', 'Ann you']);
  await bob.says('/close');
  await ann.sees('#lobby-notice', 'This lobby was closed.');
  ann.isContent();
  bob.isContent();
});
