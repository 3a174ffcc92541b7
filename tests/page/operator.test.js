import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';

import { openBrowser } from './player.js';
import { Service } from './service.js';
import { openWindows } from './windows.js';

let browser;
let service;

before(async () => {
  browser = await openBrowser();
  service = await Service.start();
});
after(async () => {
  await browser?.close();
  await service?.stop();
});

test('an_operator_sees_how_the_service_is', async (t) => {
  const { open, named } = openWindows(browser, t, service.url);
  const ann = await named('Ann');
  const id = await ann.creates('Watched');
  assert.equal(await ann.page.getByRole('link', { name: 'Service' }).count(), 0, 'guests are no operators');
  await ann.page.goto(`${service.url}#/operator`);
  assert.equal(await ann.page.locator('#operator-view').isVisible(), false);
  const operator = await open();
  await operator.page.getByText('I have a token').click();
  await operator.page.getByLabel('Token').fill('not.a.token');
  await operator.page.getByRole('button', { name: 'Enter with the token' }).click();
  await operator.sees('#token-error', 'This is not a token.');
  await operator.page.getByLabel('Token').fill(await service.token('--user', 'olga', '--name', 'Olga', '--role', 'admin'));
  await operator.page.getByRole('button', { name: 'Enter with the token' }).click();
  await operator.page.getByRole('link', { name: 'Service' }).click();
  await operator.sees('#operator-state', 'Everything works');
  await operator.sees('#operator-nodes', 'node-2');
  await operator.page.waitForFunction(() => [...document.querySelectorAll('#operator-figures div')].some((figure) => figure.textContent.startsWith('Connections2')));
  await operator.isWellMade();
  await service.kill();
  await operator.sees('#operator-error', 'The service does not answer.');
  await service.run();
  await operator.page.waitForFunction(() => document.getElementById('operator-error').textContent === '');
  // An operator enters a lobby like anybody, and may do what its host may.
  await operator.page.getByRole('link', { name: 'Back' }).click();
  await ann.joins(id);
  await operator.joins(id);
  // Whoever is put out while the connection is away is told so in other words.
  await ann.says('here again');
  await operator.sees('#log', 'here again');
  await operator.does('Ann', 'Kick…');
  await operator.page.getByRole('button', { name: 'Kick', exact: true }).click();
  await ann.sees('#lobby-notice', 'You were kicked from this lobby.');
  operator.isContent();
});
