/** Members of the real service in both encodings: a game from ready to finish, and moderation. See `faults.js`. */
import { decode, encode } from '@msgpack/msgpack';
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { WebSocket } from 'ws';

import { Cable, Service } from '../../../../tests/page/service.js';
import { Client } from 'mlms-client';

let service;
before(async () => (service = await Service.start()));
after(() => service?.stop());

/** A guest's client, connected. */
async function guest(t, name, more = {}, at = service.url) {
  const response = await fetch(`${service.url}v1/guests`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name }) });
  const { token } = await response.json();
  const client = new Client({ url: `${at}ws`, token: () => token, WebSocket, backoffBaseMs: 20, backoffMaxMs: 200, ...more });
  t.after(() => client.close());
  await client.connect();
  return client;
}

/** Waits until the lobby's events have made it so. */
async function until(lobby, holds) {
  if (!holds()) await new Promise((resolve) => lobby.on('*', () => holds() && resolve()));
}

const refused = (code) => (error) => error.code === code;

test('a_game_from_ready_to_finish_in_both_encodings', async (t) => {
  const ann = await guest(t, 'Ann');
  const bob = await guest(t, 'Bob', { msgpack: { encode, decode } });
  const home = await ann.join('ring', { create: { name: 'Ring', reports: 'members' } });
  const guestSide = await bob.join('ring');
  const heard = [];
  guestSide.on('*', (name, event) => event?.seq > guestSide.seq - 1 && heard.push(name));
  await assert.rejects(guestSide.start(), refused('forbidden'));
  await Promise.all([home.ready(), guestSide.ready()]);
  await until(guestSide, () => [...guestSide.members.values()].every(({ ready }) => ready));
  const begun = guestSide.next('game_started');
  const { game } = await home.start();
  assert.equal((await begun).game, game);
  assert.equal(guestSide.game, game);
  const moved = home.next('message', ({ kind }) => kind === 'game');
  const sent = await guestSide.send('game', { move: 'bite', at: Date.now(), weight: 1.5, parts: [1, null, 'ü'] }, { class: 'durable' });
  const move = await moved;
  assert.equal(move.seq, sent.seq);
  assert.deepEqual(move.body.parts, [1, null, 'ü']);
  const reported = home.next('reported');
  await guestSide.report('damage', 600);
  const { user, stat, amount } = await reported;
  assert.deepEqual([user, stat, amount], [bob.user, 'damage', 600]);
  const ended = guestSide.next('game_finished');
  await home.finish({ winner: bob.user });
  assert.equal((await ended).results.winner, bob.user);
  assert.equal(guestSide.game, null);
  assert.ok([...guestSide.members.values()].every(({ ready }) => !ready), 'a game’s end makes nobody ready');
  await assert.rejects(home.finish(), refused('conflict'));
  assert.ok(heard.includes('game_started') && heard.includes('game_finished'));
  // An ordered message and a fleeting one go through MessagePack, too.
  const ordered = guestSide.next('message', ({ kind }) => kind === 'cursor');
  await home.send('cursor', { x: 1 });
  assert.deepEqual((await ordered).body, { x: 1 });
  const typing = home.next('typing');
  await guestSide.typing();
  assert.equal((await typing).user, bob.user);
});

test('moderation_has_a_verb_each', async (t) => {
  const [ann, bob] = [await guest(t, 'Ann'), await guest(t, 'Bob')];
  const home = await ann.join('order', { create: true });
  const guestSide = await bob.join('order');
  await home.mute(bob.user, { for_s: 600, reason: 'loud' });
  await assert.rejects(guestSide.chat('hello'), refused('muted'));
  await home.unmute(bob.user);
  await guestSide.chat('hello');
  await assert.rejects(guestSide.kick(ann.user), refused('forbidden'));
  const promoted = guestSide.next('updated', ({ role }) => role === 'moderator');
  await home.role(bob.user, 'moderator');
  await promoted;
  assert.equal(guestSide.members.get(bob.user).role, 'moderator');
  const kicked = guestSide.next('ended');
  await home.kick(bob.user, 'enough');
  assert.equal((await kicked).code, 'kicked');
  await assert.rejects(guestSide.chat('still here'), refused('not_member'));
  await bob.join('order');
  await home.ban(bob.user);
  await assert.rejects(bob.join('order'), refused('banned'));
  await home.unban(bob.user);
  const again = await bob.join('order');
  const host = again.next('host_changed', ({ user }) => user === bob.user);
  await home.transfer(bob.user);
  await host;
  assert.equal(again.host, bob.user);
  await again.close();
  await assert.rejects(ann.join('order'), refused('lobby_closed'));
});

test('who_was_kicked_while_away_does_not_come_back_by_itself', async (t) => {
  const cable = await Cable.to(service);
  t.after(() => cable.close());
  const ann = await guest(t, 'Ann');
  const bob = await guest(t, 'Bob', {}, cable.url);
  const home = await ann.join('porch', { create: true });
  const guestSide = await bob.join('porch');
  const away = home.next('away');
  cable.cut();
  await away;
  await home.kick(bob.user);
  const ended = guestSide.next('ended');
  cable.mend();
  assert.ok(['not_member', 'kicked'].includes((await ended).code));
  const roster = await home.roster();
  assert.deepEqual(roster.members.map(({ user }) => user), [ann.user]);
});
