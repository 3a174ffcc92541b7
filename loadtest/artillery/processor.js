/**
 * The protocol for Artillery's WebSocket engine: tokens, commands with replies, and a look at every event's order.
 *
 * LOADTEST_SECRET signs tokens (HS256); without it guests' tokens are asked for, which a service gives out slowly.
 * LOADTEST_LOBBIES: how many lobbies the users spread over, 10 unless given.
 *
 * Counters: mlms.joins, mlms.ok, mlms.deliveries, mlms.missed. Histograms: mlms.ok_ms, mlms.delivery_ms. Errors: a gap
 * in a lobby's order, a refusal by its code, a command without a reply.
 */
'use strict';

const { createHmac, randomUUID } = require('node:crypto');

const run = randomUUID().slice(0, 8);
const lobbies = Number(process.env.LOADTEST_LOBBIES ?? 10);
const REPLY_MS = 10_000;
let users = 0;

async function token(target, user) {
  const secret = process.env.LOADTEST_SECRET;
  if (!secret) {
    const url = `${target.replace(/^ws/, 'http').replace(/\/$/, '')}/v1/guests`;
    const headers = { 'content-type': 'application/json' };
    const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ name: user }) });
    if (!answer.ok) throw new Error(`no token for a guest: http ${answer.status}`);
    return (await answer.json()).token;
  }
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const claims = { sub: user, name: user, exp: Math.floor(Date.now() / 1000) + 3600 };
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

/** Before the connection: who this user is, and where it goes. */
function connect(wsArgs, context, done) {
  const number = users++;
  const user = `artillery-${run}-${number}`;
  Object.assign(context.vars, { user, lobby: `artillery-${run}-${number % lobbies}` });
  token(wsArgs.target, user).then((bearer) => {
    wsArgs.target = `${wsArgs.target.replace(/\/$/, '')}/ws`;
    wsArgs.subprotocols = ['mlms.v1.json'];
    wsArgs.options = { ...wsArgs.options, headers: { ...wsArgs.options?.headers, authorization: `Bearer ${bearer}` } };
    done();
  }, done);
}

/** What a user knows of its connection: replies that it waits for, and its place in the lobby's order. */
function session(context, events) {
  if (context.mlms) return context.mlms;
  const state = { next: 0, waiting: new Map(), position: null };
  context.mlms = state;
  context.ws.on('message', (data) => {
    const frame = JSON.parse(data);
    if (frame.id !== undefined) {
      state.waiting.get(frame.id)?.(frame);
      state.waiting.delete(frame.id);
      return;
    }
    if (frame.ev === 'message' && typeof frame.body === 'string') {
      events.emit('counter', 'mlms.deliveries', 1);
      const sent = Number(frame.body.split(' ')[0]);
      if (sent > 0) events.emit('histogram', 'mlms.delivery_ms', Date.now() - sent);
    }
    if (frame.ev === 'snapshot') state.position = { epoch: frame.epoch, seq: frame.seq };
    else if (typeof frame.seq === 'number' && frame.ev !== 'saved' && frame.ev !== 'caught_up' && state.position) {
      if (frame.seq !== state.position.seq + 1) events.emit('error', 'gap');
      state.position = { epoch: frame.epoch, seq: frame.seq };
    }
  });
  return state;
}

/** Sends a command and waits for its reply. Events of a lobby come after the ok of its join: `entered` is called in between. */
function ask(context, events, command, entered) {
  const state = session(context, events);
  const id = ++state.next;
  const begun = Date.now();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no reply to ${command.op}`)), REPLY_MS);
    state.waiting.set(id, (frame) => {
      clearTimeout(timer);
      if (frame.err) return reject(new Error(`${command.op}: ${frame.err.code}`));
      events.emit('counter', 'mlms.ok', 1);
      events.emit('histogram', 'mlms.ok_ms', Date.now() - begun);
      entered?.(frame.ok, state);
      resolve(frame.ok);
    });
    context.ws.send(JSON.stringify({ id, ...command }));
  });
}

const enter = (ok, state) => (state.position = { epoch: ok.epoch, seq: ok.seq });

async function join(context, events) {
  await ask(context, events, { op: 'join', lobby: context.vars.lobby, create: true }, enter);
  events.emit('counter', 'mlms.joins', 1);
}

async function chat(context, events) {
  const body = `${Date.now()} hello from ${context.vars.user}`;
  await ask(context, events, { op: 'send', lobby: context.vars.lobby, kind: 'chat', body, nonce: randomUUID() });
}

/** Asks for what was missed since the last event: nothing, on a connection that was never lost. */
async function resume(context, events) {
  const lobby = context.vars.lobby;
  const lobbies = [{ lobby, ...session(context, events).position }];
  const ok = await ask(context, events, { op: 'resume', lobbies }, (ok, state) => enter(ok.lobbies[0], state));
  events.emit('counter', 'mlms.missed', ok.lobbies[0].missed ?? 0);
}

async function leave(context, events) {
  await ask(context, events, { op: 'leave', lobby: context.vars.lobby });
}

module.exports = { connect, join, chat, resume, leave };
