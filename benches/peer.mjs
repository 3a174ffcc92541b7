/**
 * The processes of one side of a measurement: starts them on free ports, counts their time and memory, and stops them.
 * The parts of the benchmark use it; it measures nothing itself.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const secret = 'a secret of the benchmarks, long enough';
const clusterKey = Buffer.alloc(32, 7).toString('base64');
const others = fileURLToPath(new URL('peers', import.meta.url));

/** Below the ports that the system gives to outgoing connections, of which thousands come and go here. */
let nextPort = 12_000 + (process.pid % 800) * 20;
async function freePort() {
  for (;;) {
    const port = nextPort++;
    const server = net.createServer().listen(port, '127.0.0.1');
    const free = await new Promise((resolve) => server.once('listening', () => resolve(true)).once('error', () => resolve(false)));
    if (!free) continue;
    server.close();
    await once(server, 'close');
    return port;
  }
}

async function listening(port, child) {
  for (let tries = 0; tries < 1_200; tries++) {
    if (child.exitCode !== null) throw new Error(`${child.spawnargs.join(' ')} ended with ${child.exitCode}`);
    const socket = net.connect(port, '127.0.0.1');
    const open = await new Promise((resolve) => socket.once('connect', () => resolve(true)).once('error', () => resolve(false)));
    socket.destroy();
    if (open) return;
    await sleep(50);
  }
  throw new Error(`nobody listens on ${port}`);
}

/** Processes of one peer; all of their time counts. */
export class Peer {
  children = [];
  folder = mkdtempSync(path.join(tmpdir(), 'mlms-bench-'));

  constructor(bin) {
    this.bin = bin;
  }

  async start(program, args, port, env = {}) {
    const others = Object.entries(process.env).filter(([name]) => !name.startsWith('MLMS_'));
    const settings = { cwd: this.folder, stdio: 'ignore', env: { ...Object.fromEntries(others), ...env } };
    // More sockets than most shells allow by default.
    const child = spawn('sh', ['-c', 'ulimit -n "$(ulimit -H -n)"; exec "$0" "$@"', program, ...args], settings);
    this.children.push(child);
    await listening(port, child);
    return child;
  }

  async simple(program, ...args) {
    const port = await freePort();
    await this.start(path.join(this.bin, program), [String(port), ...args], port);
    return port;
  }

  /** A server of `benches/peers`, from npm. */
  async script(name) {
    const port = await freePort();
    await this.start(process.execPath, [path.join(others, name), String(port)], port);
    return port;
  }

  async cluster(nodes) {
    const [redis, broker, admin] = [await freePort(), await freePort(), await freePort()];
    await this.start('redis-server', ['--port', String(redis), '--save', '', '--appendonly', 'no'], redis);
    const common = {
      MLMS_REDIS_URL: `redis://127.0.0.1:${redis}`,
      MLMS_DATABASE_URL: `sqlite://${path.join(this.folder, 'mlms.db')}`,
      MLMS_CLUSTER_KEY: clusterKey,
      MLMS_JWT_HS256_SECRET: secret,
      MLMS_LOG: 'warn',
      MLMS_LIMIT_COMMANDS_PER_S: '0',
      MLMS_LIMIT_CHATS_PER_S: '0',
      MLMS_LIMIT_CREATES_PER_MINUTE: '0',
      MLMS_LIMIT_JOINS_PER_S: '0',
      MLMS_LIMIT_CONNECTIONS_PER_ADDRESS_MAX: '0',
      MLMS_LIMIT_MEMBERS_PER_LOBBY_MAX: '100000',
    };
    this.nodes = [];
    for (let node = 1; node <= nodes; node++) {
      const [port, admin] = [await freePort(), await freePort()];
      const own = {
        MLMS_NODE_NAME: `node-${node}`,
        MLMS_NODE_LISTEN: `127.0.0.1:${port}`,
        MLMS_NODE_PUBLIC_URL: `ws://127.0.0.1:${port}/ws`,
        MLMS_ADMIN_LISTEN: `127.0.0.1:${admin}`,
      };
      this.nodes.push(await this.start(path.join(this.bin, 'mlms'), ['lobby-node'], port, { ...common, ...own }));
    }
    const own = { MLMS_LISTEN: `127.0.0.1:${broker}`, MLMS_ADMIN_LISTEN: `127.0.0.1:${admin}` };
    this.broker = await this.start(path.join(this.bin, 'mlms'), ['broker'], broker, { ...common, ...own });
    // A lease is read every two seconds.
    await sleep(3_000);
    return broker;
  }

  async stop() {
    for (const child of this.children.reverse()) {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Processor seconds that a process has used. */
export function cpuSeconds(child) {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** Bytes of a process that are in memory. */
export function residentBytes(child) {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))[1]) * 1_024;
}

/** What a cluster of ours does beyond the small ones: its members hear who joins. */
const ours = { tellsJoins: true };

/** All that can be measured: how to start it, and how its players come. */
export const peers = {
  floor: { start: (peer) => peer.simple('floor') },
  'floor, gathered': { start: (peer) => peer.simple('floor', '--gathered') },
  naive: { start: (peer) => peer.simple('naive') },
  direct: { ...ours, start: (peer) => peer.cluster(1), tickets: true },
  'direct, durable': { ...ours, start: (peer) => peer.cluster(1), tickets: true, class: 'durable' },
  broker: { ...ours, start: (peer) => peer.cluster(1) },
  'two nodes': { ...ours, start: (peer) => peer.cluster(2), tickets: true, enter: 'user' },
  'uWebSockets.js': { start: (peer) => peer.script('uws.mjs') },
  'Socket.IO': { start: (peer) => peer.script('socketio.mjs'), load: 'socketio-load.mjs' },
};
