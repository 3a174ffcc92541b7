import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';

import { openBrowser } from './player.js';
import { Cable, Service } from './service.js';
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

/** Everybody is ready, and the first one, who is the host, starts. */
async function start(players) {
  for (const player of players) await player.plays('Ready');
  await players[0].sees('#arena-status', `${players.length} of ${players.length} ready.`);
  await players[0].plays('Start the battle');
  for (const player of players) await player.page.waitForFunction(() => document.getElementById('arena').dataset.phase === 'playing');
}

/** All bite in their turn until one is left. @param {number} [turns] stops after so many */
async function fight(players, turns = Infinity) {
  for (let turn = 0; turn < turns; turn += 1) {
    const player = players[turn % players.length];
    if (!(await player.isOnTurn())) return;
    await player.plays('Bite');
    await player.page.waitForFunction(() => !document.querySelector('#arena-actions .primary:not([aria-disabled=true])') || document.getElementById('arena').dataset.phase !== 'playing');
  }
}

async function isFinished(players) {
  for (const player of players) await player.page.waitForFunction(() => document.getElementById('arena').dataset.phase === 'finished');
}

test('two_players_go_from_nothing_to_a_finished_game', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  await bob.joins(await ann.creates('Ring', 4));
  await ann.sees('#arena-status', '0 of 2 ready.');
  assert.equal(await bob.page.getByRole('button', { name: 'Start the battle' }).count(), 0, 'only the host starts');
  await start([ann, bob]);
  await ann.sees('#log .system', 'Game 1 began');
  await fight([ann, bob]);
  await isFinished([ann, bob]);
  assert.deepEqual(await ann.pets(), await bob.pets());
  const [winner, loser] = (await ann.page.locator('#arena-status').textContent()).startsWith('You won') ? [ann, bob] : [bob, ann];
  await winner.sees('#arena-status', 'You won, with 600 damage!');
  await winner.sees('#log .system', 'You won game 1');
  await loser.sees('#log .system', `${winner === ann ? 'Ann' : 'Bob'} won game 1`);
  // What the lobby keeps of it is what was seen: all damage was reported before the end, with the results.
  const events = await ann.page.evaluate(async () => {
    const { Client } = await import('/client/index.js');
    const client = new Client({ url: '/ws', token: JSON.parse(sessionStorage.getItem('mlms.guest')).token });
    await client.connect();
    const lobby = await client.join(location.hash.slice('#/lobby/'.length));
    const { events } = await lobby.history({ after: 0, limit: 200 });
    client.close();
    return events;
  });
  const finished = events.find(({ ev }) => ev === 'game_finished');
  const sum = (user) => events.filter(({ ev, user: of, stat, seq }) => ev === 'reported' && of === user && stat === 'damage' && seq < finished.seq).reduce((all, { amount }) => all + amount, 0);
  assert.equal(finished.results.winner, await winner.user());
  assert.equal(sum(await winner.user()), 600);
  assert.deepEqual(finished.results.damage, await Promise.all([ann, bob].map(async (player) => ({ user: await player.user(), dealt: sum(await player.user()) }))));
  // More than 500 damage in one game is an achievement, told at once and known at every later visit.
  await winner.sees('#toasts', 'Achievement: Bruiser');
  await winner.sees('#awards', 'Bruiser');
  await winner.page.reload();
  await winner.isIn();
  await winner.sees('#awards', 'Bruiser');
  // And another one.
  await start([ann, bob]);
  await ann.sees('#log .system', 'Game 2 began');
  ann.isContent();
  bob.isContent();
});

test('a_connection_lost_in_the_middle_of_a_game_costs_nothing', async (t) => {
  const cable = await Cable.to(service);
  t.after(() => cable.close());
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob] = [await named('Ann'), await named('Bob', cable.url)];
  await bob.joins(await ann.creates('Thunder', 2));
  await start([ann, bob]);
  await fight([ann, bob], 2);
  cable.cut();
  await bob.sees('#connection', 'The connection is lost.');
  await ann.isOnTurn();
  await ann.plays('Bite');
  await ann.sees('#arena-status', 'Bob is on turn.');
  cable.mend();
  await bob.page.evaluate(() => document.getElementById('connection-retry').click());
  assert.ok(await bob.isOnTurn());
  assert.deepEqual(await bob.pets(), await ann.pets());
  // Cut again right behind the own move: it counts once, whenever it arrives.
  await bob.plays('Bite');
  cable.cut();
  await bob.sees('#connection', 'The connection is lost.');
  cable.mend();
  await bob.page.evaluate(() => document.getElementById('connection-retry').click());
  assert.ok(await ann.isOnTurn());
  assert.equal((await ann.page.locator('#arena-lines li').allTextContents()).filter((line) => line.startsWith('Bob bit you')).length, 2);
  // A reload in the middle finds the battle again.
  await bob.page.reload();
  await bob.isIn();
  await bob.page.waitForFunction(() => document.getElementById('arena').dataset.phase === 'playing');
  assert.deepEqual(await bob.pets(), await ann.pets());
  await fight([ann, bob]);
  await isFinished([ann, bob]);
  assert.deepEqual(await bob.pets(), await ann.pets());
  ann.isContent();
  bob.isContent();
});

test('who_runs_away_or_sleeps_does_not_hold_up_the_others', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob, cleo] = [await named('Ann'), await named('Bob'), await named('Cleo')];
  const id = await ann.creates('Escape', 3);
  for (const player of [bob, cleo]) await player.joins(id);
  await ann.hasMembers(['Ann you host', 'Bob', 'Cleo']);
  await start([ann, bob, cleo]);
  await ann.isOnTurn();
  await ann.plays('Bite Cleo');
  await bob.isOnTurn();
  await ann.plays('Skip this turn');
  await ann.sees('#arena-lines', 'Bob had to wait.');
  await cleo.isOnTurn();
  await cleo.page.getByRole('button', { name: 'Leave' }).click();
  await ann.sees('#arena-lines', 'Cleo ran away.');
  assert.ok(await ann.isOnTurn());
  await ann.plays('Rest');
  await bob.isOnTurn();
  await bob.page.getByRole('button', { name: 'Leave' }).click();
  await isFinished([ann]);
  await ann.sees('#log .system', 'You won game 1');
  ann.isContent();
});

test('who_comes_late_or_again_sees_the_battle_as_it_is', async (t) => {
  const { named } = openWindows(browser, t, service.url);
  const [ann, bob] = [await named('Ann'), await named('Bob')];
  const id = await ann.creates('Running', 4);
  await bob.joins(id);
  await start([ann, bob]);
  await fight([ann, bob], 3);
  const shown = await bob.pets();
  assert.ok(shown.some(([, health]) => health < 600), 'somebody was bitten');
  const same = async (player) => {
    await player.page.waitForFunction(() => document.getElementById('arena').dataset.phase === 'playing');
    await player.page.waitForFunction((wanted) => JSON.stringify([...document.querySelectorAll('#arena-pets li')].map((card) => [card.dataset.user, card.querySelector('meter')?.value])) === wanted, JSON.stringify(shown));
  };
  // Somebody who was never there leaves a false beginning: nobody takes it for one.
  const cleo = await named('Cleo');
  await cleo.joins(id);
  await same(cleo);
  await cleo.page.evaluate(async (lobby) => {
    const { Client } = await import('/client/index.js');
    const client = new Client({ url: '/ws', token: JSON.parse(sessionStorage.getItem('mlms.guest')).token });
    await client.connect();
    const joined = await client.join(lobby);
    const deal = joined.retained.get('battle');
    if (deal?.body?.players?.length !== 2) throw new Error(`retained: ${JSON.stringify(deal)}`);
    await joined.retain('battle', { ...deal.body, players: [...deal.body.players].reverse() });
    client.close();
  }, id);
  await (await named('Dan')).joins(id);
  for (const player of [ann, cleo]) {
    await player.page.reload();
    await player.isIn();
    await same(player);
  }
  await fight([bob, ann]);
  await isFinished([ann, bob, cleo]);
  assert.deepEqual(await cleo.pets(), await bob.pets());
});
