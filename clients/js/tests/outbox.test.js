import assert from 'node:assert/strict';
import test from 'node:test';

import { scripted, snapshot } from './scripted.js';

test('a_send_resolves_with_its_place_and_a_refusal_says_why', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0);
  const sent = lobby.chat('hi');
  const command = await session.command('send');
  assert.equal(command.kind, 'chat');
  assert.match(command.nonce, /^[A-Za-z0-9_-]{22}$/);
  session.ok(command, { epoch: 1, seq: 1, at: 5 });
  assert.deepEqual(await sent, { epoch: 1, seq: 1, at: 5 });
  const refused = lobby.chat('again');
  session.err(await session.command('send'), 'rate_limited', { retry_ms: 300 });
  await assert.rejects(refused, { code: 'rate_limited', retryMs: 300, op: 'send', lobby: 'den' });
});

test('unanswered_sends_are_repeated_with_their_nonce_in_order_behind_the_resume', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0);
  const sent = ['a', 'b', 'c'].map((text) => lobby.chat(text));
  const first = [];
  for (let i = 0; i < 3; i += 1) first.push(await session.command('send'));
  session.ok(first[1], { epoch: 1, seq: 2, at: 1 });
  await sent[1];
  session.ws.terminate();
  await lobby.next('status', (status) => status === 'interrupted');
  const later = lobby.chat('d');
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  assert.equal(next.frames.size, 0);
  next.ok(resume, { lobbies: [{ lobby: 'den', epoch: 1, seq: 0, status: 'resumed', missed: 1 }] });
  next.message(1, 'a', { from: 'ann', nonce: first[0].nonce }); // happened: its reply was lost, and need not be asked for
  next.send({ ev: 'caught_up', lobby: 'den', seq: 1 });
  assert.deepEqual(await sent[0], { epoch: 1, seq: 1, at: 1001 });
  const c = await next.command('send');
  const d = await next.command('send');
  assert.deepEqual([c.body, c.nonce], ['c', first[2].nonce]);
  assert.equal(d.body, 'd');
  next.ok(c, { epoch: 1, seq: 3, at: 1, dup: true });
  next.ok(d, { epoch: 1, seq: 4, at: 1 });
  assert.equal((await sent[2]).dup, true);
  assert.equal((await later).seq, 4);
});

test('an_own_message_in_a_snapshot_answers_its_send', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0);
  const sent = lobby.chat('a');
  const { nonce } = await session.command('send');
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  next.ok(resume, { lobbies: [snapshot(90, { messages: [{ ev: 'message', from: 'ann', nonce, epoch: 1, seq: 77, at: 3, body: 'a' }] })] });
  assert.deepEqual(await sent, { epoch: 1, seq: 77, at: 3 });
});

test('an_unanswered_send_is_repeated_on_a_living_connection_too', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0, { replyTimeoutMs: 20 });
  const sent = lobby.chat('a');
  const first = await session.command('send');
  const second = await session.command('send');
  assert.deepEqual(second, first);
  session.ok(second, { epoch: 1, seq: 1, at: 1 });
  await sent;
});

test('an_unsequenced_message_under_way_is_not_repeated', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0);
  const under_way = lobby.send('game', { move: 1 });
  await session.command('send');
  session.ws.terminate();
  await assert.rejects(under_way, { code: 'connection_lost' });
  const waiting = lobby.send('game', { move: 2 });
  const next = await server.session();
  next.welcome();
  next.ok(await next.command('resume'), { lobbies: [{ lobby: 'den', epoch: 1, seq: 0, status: 'resumed', missed: 0 }] });
  const move = await next.command('send');
  assert.deepEqual(move.body, { move: 2 });
  next.ok(move);
  await waiting;
});

test('a_join_without_an_answer_is_repeated', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  void client.connect();
  const session = await server.session();
  session.welcome();
  const joining = client.join('den', { create: true });
  await session.command('join');
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const join = await next.joins(4);
  assert.equal(join.create, true);
  assert.equal((await joining).seq, 4);
});

test('other_commands_carry_a_nonce_and_reads_do_not', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(0);
  const kick = lobby.command('kick', { user: 'bob' });
  const first = await session.command('kick');
  assert.ok(first.nonce);
  const history = lobby.history({ before: 9 });
  assert.equal((await session.command('history')).nonce, undefined);
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  next.ok(await next.command('resume'), { lobbies: [{ lobby: 'den', epoch: 1, seq: 0, status: 'resumed', missed: 0 }] });
  const again = await next.command('kick');
  assert.equal(again.nonce, first.nonce);
  next.ok(again, { seq: 4 });
  next.ok(await next.command('history'), { events: [], more: false });
  assert.deepEqual(await kick, { seq: 4 });
  assert.deepEqual(await history, { events: [], more: false });
  assert.equal(client.pending, 0);
});

test('the_outbox_is_bounded_in_count_and_bytes', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0, { outboxCountMax: 3, outboxBytesMax: 2000 });
  const held = [lobby.chat('a'), lobby.chat('b')];
  for (let i = 0; i < 2; i += 1) await session.command('send');
  await assert.rejects(lobby.chat('x'.repeat(2000)), { code: 'outbox_full' });
  held.push(lobby.chat('c'));
  await assert.rejects(lobby.chat('d'), { code: 'outbox_full', lobby: 'den' });
  const c = await session.command('send');
  session.ok(c, { epoch: 1, seq: 1, at: 1 });
  await held[2];
  const after = lobby.chat('e');
  session.ok(await session.command('send'), { epoch: 1, seq: 2, at: 1 });
  await after;
  for (const promise of held) promise.catch(() => {});
});

test('a_frame_above_the_servers_limit_is_refused_here', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0, { welcome: { limits: { frame_bytes_max: 500 } } });
  await assert.rejects(lobby.chat('é'.repeat(250)), { code: 'too_large' });
  const fits = lobby.chat('é'.repeat(100));
  session.ok(await session.command('send'), { epoch: 1, seq: 1, at: 1 });
  await fits;
});

test('a_full_socket_holds_the_outbox_back', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(0, { bufferedMax: 1000 });
  session.ws.pause();
  const sends = [];
  // Until the kernel's buffers are full, whatever their size here is.
  let held = 0;
  for (let i = 0; held === 0 && i < 20_000; i += 1) {
    const sent = lobby.send('game', 'x'.repeat(60_000), { nonce: `n${i}` });
    sent.catch((error) => error.code === 'outbox_full' && (held += 1));
    sends.push(sent);
    if (i % 20 === 0) await new Promise(setImmediate);
  }
  assert.ok(held > 0 && client.pending <= 256);
  session.ws.resume();
  for (const sent of sends) {
    const outcome = await Promise.race([sent.then(() => 'ok', (error) => error.code), session.frames.take().then((frame) => session.ok(frame))]);
    if (outcome === 'outbox_full') break;
  }
});

test('the_servers_rates_are_kept', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0, { welcome: { limits: { chats_per_s: 50, chats_burst: 2 } } });
  const began = Date.now();
  const sends = Array.from({ length: 6 }, (_, i) => lobby.chat(String(i)));
  for (let i = 0; i < 6; i += 1) {
    const command = await session.command('send');
    assert.equal(command.body, String(i));
    session.ok(command, { epoch: 1, seq: i + 1, at: 1 });
  }
  await Promise.all(sends);
  assert.ok(Date.now() - began >= 70, 'four beyond the burst take 20 ms each'); // a lower bound: slow machines pass
});

test('ephemeral_messages_are_dropped_while_away_and_only_the_newest_of_a_key_waits', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0, { welcome: { limits: { commands_per_s: 20, commands_burst: 1 } } });
  const moves = [1, 2, 3].map((x) => lobby.send('pos', x, { class: 'ephemeral', key: 'p' }));
  assert.deepEqual(await Promise.all(moves.slice(0, 2)), [{}, {}]);
  const move = await session.command('send');
  assert.equal(move.body, 3);
  session.ok(move);
  await moves[2];
  session.ws.terminate();
  await lobby.next('status', (status) => status === 'interrupted');
  assert.deepEqual(await lobby.typing(), {});
  assert.deepEqual(await lobby.send('pos', 4, { class: 'ephemeral' }), {});
  const next = await server.session();
  next.welcome();
  next.ok(await next.command('resume'), { lobbies: [{ lobby: 'den', epoch: 1, seq: 0, status: 'resumed', missed: 0 }] });
  const chat = lobby.chat('after');
  next.ok(await next.command('send'), { epoch: 1, seq: 1, at: 1 });
  await chat;
  await lobby.typing();
  assert.equal((await next.command('typing')).id, undefined);
});

test('a_repeat_beyond_the_nonces_life_is_not_sent', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: 1_000_000 });
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0);
  const sent = lobby.chat('a');
  await session.command('send');
  t.mock.timers.setTime(1_000_000 + 280_000);
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  next.ok(await next.command('resume'), { lobbies: [{ lobby: 'den', epoch: 1, seq: 0, status: 'resumed', missed: 0 }] });
  await assert.rejects(sent, { code: 'timeout' });
  assert.equal(next.frames.size, 0);
});
