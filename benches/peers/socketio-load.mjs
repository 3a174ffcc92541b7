/**
 * Load for Socket.IO, whose framing the load test does not speak: the same closed model, raw frames (Engine.IO 4), and
 * for each member and sender a check that every message came once and in order.
 *
 *   node socketio-load.mjs PORT PID '{"clients":..,"members":..,"senders":..,"underWay":..,"bytes":..,"seconds":..}'
 */
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const [port, pid, plan] = [Number(process.argv[2]), process.argv[3], JSON.parse(process.argv[4])];
/** Connections from one source address; ports are the system's, and few for one pair of addresses. */
const PER_ADDRESS = 5_000;
let [deliveries, sending] = [0, true];

function masked(text) {
  const payload = Buffer.from(text);
  const long = payload.length > 125;
  const frame = Buffer.alloc((long ? 8 : 6) + payload.length);
  frame[0] = 0x81;
  if (long) {
    frame[1] = 0x80 | 126;
    frame.writeUInt16BE(payload.length, 2);
  } else {
    frame[1] = 0x80 | payload.length;
  }
  // A mask of zeros is a mask.
  payload.copy(frame, frame.length - payload.length);
  return frame;
}

class Client {
  rest = Buffer.alloc(0);
  isOpen = false;
  number = 0;
  seen = new Map();

  constructor(index) {
    this.user = `u${index}`;
    this.lobby = `l${Math.floor(index / plan.members)}`;
    this.sends = index % plan.members < plan.senders;
    const localAddress = `127.0.0.${1 + Math.floor(index / PER_ADDRESS)}`;
    this.socket = net.connect({ port, host: '127.0.0.1', localAddress, noDelay: true });
    this.joined = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.socket.on('error', reject);
    });
    const target = `/socket.io/?EIO=4&transport=websocket&lobby=${this.lobby}&user=${this.user}`;
    const head = `GET ${target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n`;
    this.socket.write(`${head}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n`);
    this.socket.on('data', (bytes) => this.take(bytes));
  }

  take(bytes) {
    let data = this.rest.length ? Buffer.concat([this.rest, bytes]) : bytes;
    if (!this.isOpen) {
      const end = data.indexOf('\r\n\r\n');
      this.rest = data;
      if (end < 0) return;
      this.isOpen = true;
      data = data.subarray(end + 4);
    }
    while (data.length >= 2) {
      let [at, length] = [2, data[1] & 0x7f];
      if (length === 126) {
        if (data.length < 4) break;
        [at, length] = [4, data.readUInt16BE(2)];
      }
      if (data.length < at + length) break;
      this.hear(data.toString('utf8', at, at + length));
      data = data.subarray(at + length);
    }
    this.rest = data;
  }

  hear(text) {
    if (text === '2') return void this.socket.write(masked('3'));
    if (text.startsWith('0')) return void this.socket.write(masked('40'));
    if (text.startsWith('40')) return this.resolve();
    if (!text.startsWith('42')) return;
    const [, { from, body }] = JSON.parse(text.slice(2));
    const number = Number.parseInt(body, 10);
    const last = this.seen.get(from) ?? 0;
    if (number !== last + 1) throw new Error(`${this.user}: ${from}'s message ${number} after ${last}`);
    this.seen.set(from, number);
    deliveries++;
    if (from === this.user && sending) this.send();
  }

  send() {
    const body = `${++this.number} `.padEnd(plan.bytes, 'x');
    this.socket.write(masked(`42${this.number}${JSON.stringify(['send', 'game', body])}`));
  }
}

function cpuSeconds() {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

const clients = [];
for (let index = 0; index < plan.clients; index += 100) {
  const some = Array.from({ length: Math.min(100, plan.clients - index) }, (_, at) => new Client(index + at));
  clients.push(...some);
  await Promise.all(some.map((client) => client.joined));
}
for (const client of clients.filter((client) => client.sends)) {
  for (let under = 0; under < plan.underWay; under++) client.send();
}
await sleep(500);
const before = { deliveries, cpu: cpuSeconds(), at: performance.now() };
await sleep(plan.seconds * 1_000);
const [cpu, count, seconds] = [cpuSeconds() - before.cpu, deliveries - before.deliveries, (performance.now() - before.at) / 1_000];
sending = false;
console.log(JSON.stringify({ cpu: (cpu * 1e6) / count, rate: count / seconds }));
process.exit(0);
