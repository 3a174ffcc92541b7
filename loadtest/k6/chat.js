// People who come, join a lobby, chat for a while and leave; for k6 1.0 or newer (run with 1.3).
//
//   k6 run -e TARGET=ws://localhost:8080 -e SECRET=… -e VUS=50 chat.js
//
// SECRET signs tokens (HS256); without it guests' tokens are asked for, which a service gives out slowly.
import { check } from 'k6';
import crypto from 'k6/crypto';
import encoding from 'k6/encoding';
import http from 'k6/http';
import { Counter, Rate, Trend } from 'k6/metrics';

/** The module lost its `experimental` on the way; either will do. */
function websockets() {
  try {
    return require('k6/websockets');
  } catch {
    return require('k6/experimental/websockets');
  }
}
const { WebSocket } = websockets();

const target = (__ENV.TARGET || 'ws://localhost:8080').replace(/\/$/, '');
const lobbies = Number(__ENV.LOBBIES || 10);
const messages = Number(__ENV.MESSAGES || 20);

const okTime = new Trend('mlms_ok', true);
const deliveryTime = new Trend('mlms_delivery', true);
const deliveries = new Counter('mlms_deliveries');
const gaps = new Counter('mlms_gaps');
const refused = new Rate('mlms_refused');

export const options = {
  scenarios: {
    chat: { executor: 'ramping-vus', startVUs: 1, stages: [{ duration: '10s', target: Number(__ENV.VUS || 20) }, { duration: '30s', target: Number(__ENV.VUS || 20) }] },
  },
  thresholds: { checks: ['rate==1'], mlms_gaps: ['count==0'], mlms_refused: ['rate==0'], mlms_delivery: ['p(99)<250'] },
};

// One prefix for all virtual users of a run.
export function setup() {
  return { run: Date.now().toString(36) };
}

function token(user) {
  if (!__ENV.SECRET) {
    const url = `${target.replace(/^ws/, 'http')}/v1/guests`;
    const answer = http.post(url, JSON.stringify({ name: user }), { headers: { 'content-type': 'application/json' } });
    check(answer, { 'a guest gets a token': (it) => it.status === 201 });
    return answer.json('token');
  }
  const part = (value) => encoding.b64encode(JSON.stringify(value), 'rawurl');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, name: user, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
  return `${signed}.${crypto.hmac('sha256', __ENV.SECRET, signed, 'base64rawurl')}`;
}

export default function ({ run }) {
  const user = `k6-${run}-${__VU}-${__ITER}`;
  const lobby = `k6-${run}-${__VU % lobbies}`;
  const socket = new WebSocket(`${target}/ws?lobby=${lobby}`, 'mlms.v1.json', { headers: { Authorization: `Bearer ${token(user)}` } });
  const waiting = new Map();
  let [next, sent, position] = [0, 0, null];

  function ask(command) {
    const id = ++next;
    waiting.set(id, Date.now());
    socket.send(JSON.stringify({ id, lobby, ...command }));
  }

  function talk() {
    const timer = setInterval(() => {
      if (sent++ < messages) return ask({ op: 'send', kind: 'chat', body: `${Date.now()} hello from ${user}`, nonce: `${user}-${sent}`.slice(-36) });
      clearInterval(timer);
      // What is under way has a second to arrive.
      setTimeout(() => socket.close(), 1000);
    }, 500 + Math.random() * 1000);
  }

  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.id !== undefined) {
      okTime.add(Date.now() - waiting.get(frame.id));
      refused.add(frame.err !== undefined);
      waiting.delete(frame.id);
    } else if (frame.ev === 'snapshot') {
      const first = position === null;
      position = frame.seq;
      if (first) talk();
    } else if (frame.seq !== undefined && frame.ev !== 'saved' && frame.ev !== 'caught_up') {
      if (frame.seq !== position + 1) gaps.add(1);
      position = frame.seq;
      if (frame.ev === 'message') {
        deliveries.add(1);
        deliveryTime.add(Date.now() - Number(String(frame.body).split(' ')[0]));
      }
    }
  };
  // k6's own event of a close has no code.
  socket.onclose = ({ code = 1000 }) => check(code, { 'it ends as it should': (it) => it === 1000 || it === 1005 });
  socket.onerror = ({ error }) => {
    check(error, { 'it ends as it should': () => false });
    // Whoever is refused waits a while before the next attempt.
    setTimeout(() => {}, 1000);
  };
}
