import assert from 'node:assert/strict';
import test from 'node:test';

import { record, scripted, snapshot } from './scripted.js';

const reached = (lobby, seq) => (lobby.seq >= seq ? Promise.resolve() : lobby.next('message', (event) => event.seq >= seq));

test('join_gives_the_state_and_events_keep_it_up', async (t) => {
  const server = await scripted(t);
  const members = [{ user: 'ann', name: 'Ann', role: 'host' }];
  const { session, lobby } = await server.inLobby(3, {}, { members, members_total: 1, messages: [{ ev: 'message', seq: 2, body: 'old' }] });
  assert.equal(lobby.status, 'live');
  assert.deepEqual(lobby.position, { epoch: 1, seq: 3 });
  assert.equal(lobby.messages[0].body, 'old');
  session.event('joined', 4, { user: 'bob', name: 'Bob', role: 'player' });
  session.send({ ev: 'away', lobby: 'den', user: 'bob' });
  session.event('host_changed', 5, { user: 'bob' });
  session.event('ready', 6, { user: 'bob', ready: true });
  session.event('updated', 7, { by: 'bob', settings: { name: 'The Den' } });
  session.message(8, 'x');
  await reached(lobby, 8);
  assert.equal(lobby.host, 'bob');
  assert.equal(lobby.settings.name, 'The Den');
  assert.equal(lobby.membersTotal, 2);
  assert.equal(lobby.members.get('ann').role, 'player');
  assert.deepEqual(lobby.members.get('bob'), { user: 'bob', name: 'Bob', role: 'host', attributes: undefined, ready: true, away: true });
  session.event('left', 9, { user: 'bob' });
  session.message(10, 'y');
  await reached(lobby, 10);
  assert.equal(lobby.members.has('bob'), false);
  assert.equal(lobby.membersTotal, 1);
});

test('unread_chats_are_counted_on_all_devices_and_values_that_last_are_kept', async (t) => {
  const server = await scripted(t);
  const retained = [{ ev: 'message', seq: 2, key: 'map', body: 'ice' }, { ev: 'message', seq: 3, key: 'score', body: [0, 0] }];
  const { session, lobby } = await server.inLobby(5, {}, { retained }, { read: 3, unread: 2 });
  assert.deepEqual([lobby.readSeq, lobby.unread], [3, 2]);
  assert.deepEqual([...lobby.retained].map(([key, { body }]) => [key, body]), [['map', 'ice'], ['score', [0, 0]]]);
  session.event('message', 6, { kind: 'chat', from: 'bob', body: 'hi' });
  session.event('message', 7, { kind: 'game', from: 'bob', key: 'score', body: [1, 0] });
  session.event('message', 8, { kind: 'game', from: 'bob', key: 'turn', body: 'bob' });
  session.event('message', 9, { kind: 'game', from: 'bob', key: 'map', body: null });
  session.event('edited', 10, { by: 'bob', of: 7, body: [2, 0] });
  session.event('deleted', 11, { by: 'bob', of: 8 });
  await lobby.next('deleted');
  assert.equal(lobby.unread, 3);
  assert.deepEqual([...lobby.retained].map(([key, { body }]) => [key, body]), [['score', [2, 0]]]);
  session.send({ ev: 'read', lobby: 'den', user: 'ann', read: 5, unread: 1 });
  await lobby.next('read');
  assert.deepEqual([lobby.readSeq, lobby.unread], [5, 1]);
  const reading = lobby.read();
  const command = await session.command('read');
  assert.deepEqual([command.seq, command.nonce], [11, undefined]);
  session.ok(command, { read: 11, unread: 0 });
  assert.deepEqual(await reading, { read: 11, unread: 0 });
  assert.deepEqual([lobby.readSeq, lobby.unread], [11, 0]);
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  next.ok(resume, { lobbies: [{ lobby: 'den', epoch: 1, seq: 11, status: 'resumed', missed: 2, read: 12, unread: 1 }] });
  next.event('message', 12, { kind: 'chat', from: 'bob', body: 'missed' });
  next.event('message', 13, { kind: 'chat', from: 'bob', body: 'missed' });
  next.send({ ev: 'caught_up', lobby: 'den', seq: 13 });
  await lobby.next('caught_up');
  assert.deepEqual([lobby.readSeq, lobby.unread], [12, 1], 'the answer had counted them');
  const kept = lobby.retain('map', 'fire');
  const send = await next.command('send');
  assert.deepEqual([send.key, send.retain, send.kind, typeof send.nonce], ['map', true, 'game', 'string']);
  next.ok(send, { epoch: 1, seq: 14, at: 1 });
  assert.equal((await kept).seq, 14);
});

test('events_right_behind_the_joins_ok_are_not_missed', async (t) => {
  const server = await scripted(t);
  const client = server.client();
  void client.connect();
  const session = await server.session();
  session.welcome();
  const joining = client.join('den');
  const command = await session.command('join');
  session.ws._socket.cork(); // one TCP segment, so that all frames are read in one go
  session.ok(command, snapshot(0));
  for (const seq of [1, 2, 3]) session.message(seq, 'm');
  session.ws._socket.uncork();
  const lobby = await joining;
  const seen = record(lobby);
  await reached(lobby, 3);
  assert.deepEqual(seen, ['1:m', '2:m', '3:m']);
});

test('resumes_from_its_position_and_sees_each_event_once_in_order', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(0);
  const seen = record(lobby);
  session.message(1, 'a');
  session.message(2, 'b');
  await reached(lobby, 2);
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  assert.deepEqual(resume.lobbies, [{ lobby: 'den', epoch: 1, seq: 2 }]);
  next.ok(resume, { lobbies: [{ lobby: 'den', epoch: 4, seq: 2, status: 'resumed', missed: 2 }] });
  next.message(2, 'b');
  next.message(3, 'c');
  next.message(4, 'd', { epoch: 4 });
  next.send({ ev: 'caught_up', lobby: 'den', seq: 4 });
  next.message(4, 'd', { epoch: 4 });
  next.message(5, 'e', { epoch: 4 });
  await reached(lobby, 5);
  assert.deepEqual(seen, ['1:a', '2:b', '<interrupted>', '<catching_up>', 'resumed', '3:c', '4:d', '<live>', 'caught_up', '5:e']);
  assert.deepEqual(lobby.position, { epoch: 4, seq: 5 });
  assert.equal(client.lobbies.get('den'), lobby);
});

test('a_connection_lost_while_catching_up_resumes_from_what_came', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(5);
  session.ws.terminate();
  const second = await server.session();
  second.welcome();
  const resume = await second.command('resume');
  second.ok(resume, { lobbies: [{ lobby: 'den', epoch: 9, seq: 5, status: 'resumed', missed: 3 }] });
  second.message(6, 'x', { epoch: 2 });
  await reached(lobby, 6);
  second.ws.terminate();
  const third = await server.session();
  third.welcome();
  // Not the newest epoch of the lobby: that would be no valid position before seq 7.
  assert.deepEqual((await third.command('resume')).lobbies, [{ lobby: 'den', epoch: 2, seq: 6 }]);
});

test('a_snapshot_in_place_of_a_resume_replaces_the_state', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(5, {}, { members: [{ user: 'ann' }, { user: 'bob' }] });
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  const restarted = lobby.next('snapshot');
  next.ok(resume, { lobbies: [{ ...snapshot(2, { members: [{ user: 'ann' }], messages: [{ seq: 2, body: 'z' }] }), epoch: 7 }] });
  await restarted;
  assert.deepEqual(lobby.position, { epoch: 7, seq: 2 });
  assert.deepEqual([...lobby.members.keys()], ['ann']);
  assert.equal(lobby.status, 'live');
  next.message(3, 'after', { epoch: 7 });
  await reached(lobby, 3);
});

test('a_snapshot_event_moves_the_position_even_backwards', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(50);
  const restarted = lobby.next('snapshot');
  session.send({ ev: 'snapshot', ...snapshot(10), epoch: 2 });
  await restarted;
  session.message(11, 'on', { epoch: 2 });
  await reached(lobby, 11);
  assert.deepEqual(lobby.position, { epoch: 2, seq: 11 });
});

test('a_gap_is_told_and_healed_from_the_last_known_position', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(0);
  const seen = record(lobby);
  session.message(1, 'a');
  session.message(3, 'c');
  session.message(4, 'd');
  const resume = await session.command('resume');
  assert.deepEqual(resume.lobbies, [{ lobby: 'den', epoch: 1, seq: 1 }]);
  session.ok(resume, { lobbies: [{ lobby: 'den', epoch: 1, seq: 1, status: 'resumed', missed: 3 }] });
  for (const [seq, body] of [[2, 'b'], [3, 'c'], [4, 'd']]) session.message(seq, body);
  session.send({ ev: 'caught_up', lobby: 'den', seq: 4 });
  await lobby.next('caught_up');
  assert.deepEqual(seen, ['1:a', 'gap', '<interrupted>', '<catching_up>', 'resumed', '2:b', '3:c', '4:d', '<live>', 'caught_up']);
});

test('a_gap_that_stays_is_passed_over', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(1);
  const seen = record(lobby);
  session.message(3, 'c');
  const resume = await session.command('resume');
  session.ok(resume, { lobbies: [{ lobby: 'den', epoch: 1, seq: 1, status: 'resumed', missed: 1 }] });
  session.message(3, 'c');
  await reached(lobby, 3);
  assert.deepEqual(seen, ['gap', '<interrupted>', '<catching_up>', 'resumed', 'gap', '3:c']);
});

test('a_lobby_is_resumed_with_what_its_join_said_and_nothing_that_creates_it', async (t) => {
  const server = await scripted(t);
  const options = { saved: true, password: 'pw', role: 'spectator', create: true };
  const { session, lobby } = await server.inLobby(7, { join: options });
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  assert.deepEqual(resume.lobbies, [{ lobby: 'den', epoch: 1, seq: 7, saved: true, password: 'pw', role: 'spectator' }]);
  const resumed = lobby.next('resumed');
  next.ok(resume, { lobbies: [{ lobby: 'den', epoch: 1, seq: 7, status: 'resumed', missed: 0 }] });
  await resumed;
  assert.equal(lobby.status, 'live');
  const saved = lobby.next('saved');
  next.send({ ev: 'saved', lobby: 'den', seq: 5 });
  assert.equal((await saved).seq, 5);
});

test('a_lobby_that_the_server_does_not_know_is_joined_with_what_the_first_join_said', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(3, { join: { password: 'pw', create: { capacity: 4 } } });
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  next.ok(resume, { lobbies: [{ lobby: 'den', err: { code: 'not_found', message: '' } }] });
  const join = await next.command('join');
  assert.equal(join.password, 'pw');
  assert.deepEqual(join.create, { capacity: 4 });
  const restarted = lobby.next('snapshot');
  next.ok(join, snapshot(8));
  await restarted;
});

test('an_unknown_resume_falls_back_to_join', async (t) => {
  const server = await scripted(t);
  const { session } = await server.inLobby(3);
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  next.err(await next.command('resume'), 'unknown_op');
  assert.deepEqual((await next.command('join')).since, { epoch: 1, seq: 3 });
});

test('a_resume_refused_for_now_is_tried_again', async (t) => {
  const server = await scripted(t);
  const { session, lobby } = await server.inLobby(3);
  session.ws.terminate();
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  next.ok(resume, { lobbies: [{ lobby: 'den', err: { code: 'owner_unavailable', message: '', retry_ms: 5 } }] });
  next.err(await next.command('resume'), 'owner_unavailable', { retry_ms: 5 });
  const resumed = lobby.next('resumed');
  const answer = { lobby: 'den', epoch: 1, seq: 3, status: 'resumed', missed: 0 };
  next.ok(await next.command('resume'), { lobbies: [answer] });
  await resumed;
});

test('a_lobby_that_cannot_be_joined_again_ends', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(3);
  session.ws.terminate();
  const held = lobby.chat('never sent');
  const ended = lobby.next('ended');
  const next = await server.session();
  next.welcome();
  const resume = await next.command('resume');
  next.ok(resume, { lobbies: [{ lobby: 'den', err: { code: 'banned', message: 'no' } }] });
  assert.equal((await ended).code, 'banned');
  await assert.rejects(held, { code: 'banned' });
  await assert.rejects(lobby.chat('x'), { code: 'not_member' });
  assert.equal(client.lobbies.size, 0);
});

test('being_kicked_ends_the_lobby_and_not_the_client', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(3);
  const ended = lobby.next('ended');
  session.event('kicked', 4, { user: 'ann', by: 'bob', reason: 'spam' });
  const error = await ended;
  assert.equal(error.code, 'kicked');
  assert.equal(error.message, 'spam');
  assert.equal(client.state, 'open');
});

test('leave_goes_out_and_later_events_are_not_shown', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(3);
  const seen = record(lobby);
  const left = lobby.leave();
  const leave = await session.command('leave');
  session.event('left', 4, { user: 'ann' });
  session.err(leave, 'not_member');
  await left;
  assert.deepEqual(seen, ['<ended>', 'ended']);
  assert.equal(client.lobbies.size, 0);
});

test('a_snapshot_for_a_lobby_named_in_the_url_is_a_joined_lobby', async (t) => {
  const server = await scripted(t);
  const client = server.client({ url: `${server.url}?lobby=den` });
  void client.connect();
  const session = await server.session();
  session.welcome();
  const coming = new Promise((resolve) => client.on('event', (event, lobby) => resolve(lobby)));
  session.send({ ev: 'snapshot', ...snapshot(4) });
  const lobby = await coming;
  assert.equal(lobby.id, 'den');
  assert.equal(client.lobbies.get('den').status, 'live');
});

test('unknown_events_and_fields_disturb_nothing', async (t) => {
  const server = await scripted(t);
  const { client, session, lobby } = await server.inLobby(0);
  const failed = client.next('error');
  session.send({ ev: 'from_the_future', lobby: 'den', seq: 1, epoch: 1 });
  session.send({ ev: 'also_new' });
  session.send({ nonsense: true });
  session.send(['not', 'an', 'object']);
  session.send(null);
  session.send({ ev: 'error', code: 'slow_mode', message: 'wait', op: 'send', lobby: 'den', retry_ms: 7 });
  const error = await failed;
  assert.deepEqual([error.code, error.op, error.retryMs], ['slow_mode', 'send', 7]);
  assert.equal(lobby.seq, 1);
});
