import assert from 'node:assert/strict';
import test from 'node:test';

import { scripted } from './scripted.js';

const jwt = (seconds) => `h.${Buffer.from(JSON.stringify({ exp: Math.floor(Date.now() / 1000) + seconds })).toString('base64url')}.s`;

test('connects_with_both_subprotocols_and_opens_at_the_welcome', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  assert.equal(client.state, 'closed');
  const opened = client.connect();
  assert.equal(client.state, 'connecting');
  const session = await server.session();
  assert.deepEqual(session.protocols, ['mlms.v1.json', 'bearer.tok']);
  assert.equal(session.ws.protocol, 'mlms.v1.json');
  assert.equal(client.state, 'connecting');
  session.welcome();
  await opened;
  assert.equal(client.state, 'open');
  assert.equal(client.user, 'ann');
});

for (const code of [4000, 4001, 4004, 4499, 1001, 1011]) {
  test(`comes_back_after_close_${code}`, async (t) => {
    const server = await scripted(t);
    const client = server.client();
    void client.connect();
    const first = await server.session();
    first.welcome();
    await client.next('welcome');
    const waiting = client.next('state', ({ state }) => state === 'waiting');
    first.ws.close(code, 'why');
    const { reason, retryAt } = await waiting;
    assert.deepEqual(reason, { code, reason: 'why' });
    assert.ok(retryAt > 0);
    (await server.session()).welcome();
    await client.next('welcome');
    assert.equal(client.state, 'open');
    assert.equal(client.retryAt, undefined);
  });
}

for (const code of [4500, 4501, 4505, 4506, 4999]) {
  test(`stays_away_after_close_${code}`, async (t) => {
    const server = await scripted(t);
    const client = server.client();
    void client.connect();
    const session = await server.session();
    session.welcome();
    await client.next('welcome');
    const pending = client.command('ping');
    session.ws.close(code, 'enough');
    await assert.rejects(pending, { code: 'closed' });
    assert.equal(client.state, 'closed');
    assert.deepEqual(client.reason, { code, reason: 'enough' });
    await assert.rejects(client.command('ping'), { code: 'closed' });
    await assert.rejects(client.join('den'), { code: 'closed' });
  });
}

test('comes_back_after_a_connection_that_just_ends', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  void client.connect();
  const first = await server.session();
  first.welcome();
  await client.next('welcome');
  first.ws.terminate();
  (await server.session()).welcome();
  await client.next('welcome');
});

test('a_bye_that_says_never_is_obeyed_whatever_the_close_code', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  const opened = client.connect();
  const session = await server.session();
  session.welcome();
  await opened;
  session.send({ ev: 'bye', code: 'kicked', reason: 'go', reconnect: 'never' });
  session.ws.close(4000);
  await client.next('state', ({ state }) => state === 'closed');
  assert.deepEqual(client.reason, { code: 'kicked', reason: 'go' });
});

test('a_bye_that_says_now_is_obeyed_without_a_wait', async (t) => {
  const server = await scripted(t);
  const client = server.client({ backoffBaseMs: 3_600_000, backoffMaxMs: 3_600_000, random: () => 1 });
  const opened = client.connect();
  const session = await server.session();
  session.welcome();
  await opened;
  session.send({ ev: 'bye', code: 'draining', reason: 'update', reconnect: 'now' });
  session.ws.close(4000);
  (await server.session()).welcome();
  await client.next('welcome');
});

test('a_bye_with_a_window_is_obeyed_inside_it', async (t) => {
  const server = await scripted(t);
  const client = server.client({ random: () => 0.5 });
  const opened = client.connect();
  const session = await server.session();
  session.welcome();
  await opened;
  const bye = client.next('bye');
  session.send({ ev: 'bye', code: 'draining', reason: 'update', reconnect: 'window', window_ms: [600_000, 1_200_000] });
  await bye;
  const saidAt = Date.now();
  session.ws.close(4000);
  const { retryAt } = await client.next('state', ({ state }) => state === 'waiting');
  assert.ok(retryAt >= saidAt + 600_000 && retryAt <= saidAt + 1_200_000, `${retryAt - saidAt}`);
  client.retryNow();
  (await server.session()).welcome();
  await client.next('welcome');
});

test('a_server_that_says_bye_and_does_not_close_is_left', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  const opened = client.connect();
  const session = await server.session();
  session.welcome();
  await opened;
  session.send({ ev: 'bye', code: 'draining', reason: '', reconnect: 'now' });
  assert.equal(await session.closed, 1000);
  await server.session();
});

test('a_silent_server_is_probed_and_then_left', async (t) => {
  const server = await scripted(t);
  const client = server.client({ pongTimeoutMs: 30 });
  const opened = client.connect();
  const session = await server.session();
  session.welcome({ heartbeat_ms: 20 });
  await opened;
  const probe = await session.command('ping');
  assert.equal(probe.id, 0);
  session.ok(probe, { now: 1 });
  await session.command('ping'); // the answer was heard, the next silence is probed again
  const { reason } = await client.next('state', ({ state }) => state === 'waiting');
  assert.equal(reason.code, 4003);
  await server.session();
});

test('a_connection_without_a_welcome_is_given_up', async (t) => {
  const server = await scripted(t);
  const client = server.client({ connectTimeoutMs: 20 });
  void client.connect();
  await server.session();
  (await server.session()).welcome();
  await client.next('state', ({ state }) => state === 'open');
});

test('close_ends_it_and_connect_begins_again', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  void client.connect();
  const session = await server.session();
  session.welcome();
  await client.next('welcome');
  client.close();
  assert.equal(client.state, 'closed');
  assert.equal(await session.closed, 1000);
  void client.connect();
  (await server.session()).welcome();
  await client.next('welcome');
});

test('close_while_connecting_opens_nothing', async (t) => {
  const server = await scripted(t);
  let give;
  const client = server.client({ token: () => new Promise((resolve) => (give = resolve)) });
  const opened = client.connect();
  client.close();
  await assert.rejects(opened, { code: 'closed' });
  give('late');
  await new Promise(setImmediate);
  assert.equal(client.state, 'closed');
  assert.equal(server.sessions.size, 0);
});

test('a_refused_token_is_asked_for_again', async (t) => {
  const server = await scripted(t);
  const reasons = [];
  const client = server.client({ token: (reason) => `t${reasons.push(reason)}` });
  server.gate.refuse = { status: 401 };
  void client.connect();
  const session = await server.session();
  assert.equal(session.token, 't2');
  session.welcome();
  await client.next('welcome');
  session.ws.close(4005, 'token expired');
  assert.equal((await server.session()).token, 't3');
  assert.deepEqual(reasons, ['first', 'refused', 'refused']);
});

test('a_fixed_token_that_expired_ends_the_client', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  void client.connect();
  const session = await server.session();
  session.welcome();
  await client.next('welcome');
  session.ws.close(4005, 'token expired');
  await client.next('state', ({ state }) => state === 'closed');
  assert.equal(client.reason.code, 4005);
});

test('a_refusal_for_good_ends_the_client', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  server.gate.refuse = { status: 403 };
  await assert.rejects(client.connect(), { code: 'closed' });
  assert.equal(client.reason.reason, 'refused with HTTP 403');
});

test('retry_after_is_waited_for', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  server.gate.refuse = { status: 503, headers: 'Retry-After: 600\r\n' };
  void client.connect();
  const before = Date.now();
  const { retryAt } = await client.next('state', ({ state }) => state === 'waiting');
  assert.ok(retryAt >= before + 600_000);
});

test('a_provider_that_fails_is_asked_again_unless_it_says_permanent', async (t) => {
  const server = await scripted(t);
  let asked = 0;
  const client = server.client({
    token: () => {
      asked += 1;
      throw Object.assign(new Error(`no ${asked}`), { permanent: asked === 3 });
    },
  });
  await assert.rejects(client.connect(), { message: 'no 3' });
  assert.equal(client.reason.code, 'token');
});

test('a_token_that_still_holds_is_used_again', async (t) => {
  const server = await scripted(t);
  let asked = 0;
  const client = server.client({ token: () => jwt(3600 + asked++) });
  void client.connect();
  const first = await server.session();
  first.welcome();
  await client.next('welcome');
  first.ws.close(4000);
  assert.equal((await server.session()).token, first.token);
  assert.equal(asked, 1);
});

test('a_new_token_goes_to_the_server_before_the_old_one_ends', async (t) => {
  const server = await scripted(t);
  const tokens = [jwt(2), jwt(3600)];
  const client = server.client({ token: () => tokens.shift() });
  void client.connect();
  const session = await server.session();
  const second = tokens[0];
  // The server's clock counts: by it the token has 10 s left, of which half are waited at most.
  session.welcome({ now: Date.now() - 2_000 });
  const auth = await session.command('auth');
  assert.equal(auth.token, second);
  session.ok(auth, { expires_at: 1 });
});

test('a_listener_that_throws_disturbs_nobody', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  const reported = t.mock.method(console, 'error', () => {});
  client.on('welcome', () => {
    throw new Error('listener');
  });
  const opened = client.connect();
  (await server.session()).welcome();
  await opened;
  assert.equal(reported.mock.calls[0].arguments[0].message, 'listener');
});
