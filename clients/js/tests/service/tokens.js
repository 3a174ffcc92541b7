/** Tokens that end while players talk, against the real service. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import test, { after, before } from 'node:test';
import { WebSocket } from 'ws';

import { Service } from '../../../../tests/page/service.js';
import { Client } from 'mlms-client';

const SECRET = 'a secret of the tests, long enough for HS256';
let service;

before(async () => {
  service = await Service.start({ MLMS_JWT_HS256_SECRET: SECRET });
});
after(() => service?.stop());

function sign(user, seconds) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, name: user, exp: Math.floor(Date.now() / 1000) + seconds })}`;
  return `${text}.${createHmac('sha256', SECRET).update(text).digest('base64url')}`;
}

/** A connected client and everything that its connection went through. */
async function connect(t, token) {
  const client = new Client({ url: `${service.url}ws`, token, WebSocket, backoffBaseMs: 20, backoffMaxMs: 200 });
  const ends = [];
  client.on('state', ({ state, reason }) => (state === 'waiting' || state === 'closed') && ends.push(reason.code));
  t.after(() => client.close());
  await client.connect();
  return { client, ends };
}

/** Resolves with the next lobby event that `accept` takes. */
const heard = (lobby, body) => lobby.next('message', (event) => event.body === body);

test('a_token_is_renewed_before_it_ends_and_the_connection_stays', { timeout: 120_000 }, async (t) => {
  const asked = [];
  let renewed;
  const renewal = new Promise((resolve) => (renewed = resolve));
  const { client, ends } = await connect(t, (reason) => {
    asked.push(reason);
    if (reason === 'expiring') renewed();
    return sign('Ann', reason === 'first' ? 14 : 3600);
  });
  const lobby = await client.join('tokens', { create: true });
  await renewal;
  await client.command('ping'); // in order behind the `auth`
  // The first token is over, and the session is not.
  await new Promise((resolve) => setTimeout(resolve, 14_000 - 7_000 + 1_500));
  const echo = heard(lobby, 'still here');
  await lobby.chat('still here');
  await echo;
  assert.deepEqual(asked, ['first', 'expiring']);
  assert.deepEqual(ends, []);
});

test('a_token_that_ended_is_replaced_and_the_lobby_resumes', { timeout: 120_000 }, async (t) => {
  let issued = 0;
  let held;
  // Renews nothing in time: the server has to end the session.
  const { client, ends } = await connect(t, (reason) => {
    if (reason !== 'expiring') {
      issued += 1;
      held = sign('Bob', issued === 1 ? 3 : 3600);
    }
    return held;
  });
  const lobby = await client.join('tokens', { create: true });
  const snapshots = [];
  lobby.on('snapshot', () => snapshots.push(lobby.seq));
  const { seq } = await lobby.chat('before');
  await lobby.next('resumed');
  const echo = heard(lobby, 'after');
  const after = await lobby.chat('after');
  await echo;
  assert.ok(after.seq > seq);
  assert.deepEqual(ends, [4005]);
  assert.deepEqual(snapshots, []);
  assert.equal(issued, 2);
});

test('a_token_that_the_service_refuses_ends_the_client_with_the_reason', { timeout: 60_000 }, async (t) => {
  const client = new Client({ url: `${service.url}ws`, token: 'not.a.token', WebSocket });
  t.after(() => client.close());
  await assert.rejects(client.connect(), { code: 'closed' });
  assert.equal(client.state, 'closed');
  assert.match(client.reason.reason, /401/);
});
