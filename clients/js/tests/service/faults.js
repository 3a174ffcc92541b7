/**
 * Players of the real service who talk while their cables are cut and the service is killed. `npm run test:service`;
 * MLMS_BIN names the server's binary (default: the release build of this tree).
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { WebSocket } from 'ws';

import { Cable, Service } from '../../../../tests/page/service.js';
import { Client } from 'mlms-client';

const MESSAGES = 120;

class Talker {
  faults = [];
  bodies = [];
  sent = [];
  snapshots = 0;

  static async join(name, service, lobby, create) {
    const talker = new Talker();
    talker.name = name;
    talker.cable = await Cable.to(service);
    const token = async () => {
      const response = await fetch(`${service.url}v1/guests`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ name }) });
      assert.equal(response.status, 201);
      return (await response.json()).token;
    };
    let first;
    // The same user on every connection, as a player's token would be.
    const provider = () => (first ??= token());
    talker.client = new Client({ url: `${talker.cable.url}ws`, token: provider, WebSocket, backoffBaseMs: 20, backoffMaxMs: 200 });
    await talker.client.connect();
    talker.lobby = await talker.client.join(lobby, create ? { create } : {});
    let at = talker.lobby.seq;
    talker.lobby.on('*', (name, value) => {
      if (name === 'snapshot') talker.snapshots += 1;
      if (name === 'gap') talker.faults.push(`gap after ${value.after}`);
      if (name === 'ended') talker.faults.push(`ended: ${value.message}`);
      if (value?.seq === undefined || name === 'snapshot' || name === 'caught_up' || name === 'saved') return;
      if (value.seq !== at + 1) talker.faults.push(`${value.seq} after ${at}`);
      at = value.seq;
      if (name === 'message') talker.bodies.push(value.body);
    });
    return talker;
  }

  say(text) {
    this.sent.push(this.lobby.chat(text));
  }

  async hears(count) {
    if (this.bodies.length < count) await new Promise((resolve) => this.lobby.on('*', () => this.bodies.length >= count && resolve()));
  }

  close() {
    this.client.close();
    this.cable.close();
  }
}

async function talkThrough(t, service, trouble) {
  const lobby = `faults-${Date.now()}`;
  const talkers = [await Talker.join('Ann', service, lobby, { name: 'Faults' })];
  for (const name of ['Bob', 'Cleo']) talkers.push(await Talker.join(name, service, lobby));
  t.after(() => talkers.forEach((talker) => talker.close()));
  for (let n = 0; n < MESSAGES; n += 1) {
    for (const talker of talkers) talker.say(`${talker.name} ${n}`);
    await trouble(n, talkers);
    if (n % 4 === 0) await Promise.all(talkers.map((talker) => talker.sent.at(-1)));
  }
  const answers = await Promise.all(talkers.map((talker) => Promise.all(talker.sent)));
  for (const [i, talker] of talkers.entries()) {
    await talker.hears(MESSAGES * talkers.length);
    assert.deepEqual(talker.faults, []);
    assert.equal(talker.snapshots, 0);
    assert.deepEqual(talker.bodies, talkers[0].bodies);
    const own = talker.bodies.filter((body) => body.startsWith(talker.name));
    assert.deepEqual(own, Array.from({ length: MESSAGES }, (_, n) => `${talker.name} ${n}`));
    const seqs = answers[i].map(({ seq }) => seq);
    assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b));
  }
}

const settings = { MLMS_LIMIT_CHATS_PER_S: '0', MLMS_LIMIT_COMMANDS_PER_S: '0', MLMS_LIMIT_JOINS_PER_S: '0' };

test('cut_cables_lose_and_double_nothing', { timeout: 120_000 }, async (t) => {
  const service = await Service.start(settings);
  t.after(() => service.stop());
  await talkThrough(t, service, async (n, talkers) => {
    if (n % 5 !== 1) return;
    const { cable } = talkers[n % 3];
    cable.cut();
    setTimeout(() => cable.mend(), n); // longer and longer outages
  });
});

test('killed_services_lose_and_double_nothing', { timeout: 240_000 }, async (t) => {
  const service = await Service.start(settings);
  t.after(() => service.stop());
  await talkThrough(t, service, async (n) => {
    if (n % 30 !== 10) return;
    await service.kill();
    await service.run();
  });
});

test('drained_services_lose_and_double_nothing', { timeout: 240_000 }, async (t) => {
  const service = await Service.start({ ...settings, MLMS_DRAIN_SECONDS: '1' });
  t.after(() => service.stop());
  await talkThrough(t, service, async (n, talkers) => {
    if (n % 40 !== 10) return;
    const told = talkers.map((talker) => talker.client.next('bye'));
    assert.equal(await service.drain(), 0);
    for (const bye of await Promise.all(told)) assert.notEqual(bye.reconnect, 'never');
    await service.run();
  });
});
