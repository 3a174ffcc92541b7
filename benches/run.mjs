/**
 * Measures the service beside its peers, in one run: for each case and round every peer in turn, then ratios to the
 * floor of the same round, median and spread. The load test generates the load and checks every delivery; a run in which
 * a rule is broken ends the benchmark.
 *
 *   node benches/run.mjs [--rounds 9] [--seconds 5] [--cases 'A;B'] [--peers 'floor;direct'] [--write]
 *
 * The binaries are those of target/release (or of --bin FOLDER); redis-server must be installed for `direct`, `broker`
 * and `two nodes`. With --write the tables go into docs/performance.md.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '9' },
    seconds: { type: 'string', default: '5' },
    cases: { type: 'string' },
    peers: { type: 'string' },
    bin: { type: 'string', default: path.join(root, 'target/release') },
    write: { type: 'boolean', default: false },
  },
});
const secret = 'a secret of the benchmarks, long enough';
const clusterKey = Buffer.alloc(32, 7).toString('base64');

/** A case: its clients, sizes of lobbies, how many of each send, and how much of each is under way. */
const cases = {
  '1x1000, 1 under way': { clients: 1000, members: 1000, senders: 1, underWay: 1 },
  '1x1000, 32 under way': { clients: 1000, members: 1000, senders: 1, underWay: 32 },
  '100x10, 4 senders': { clients: 1000, members: 10, senders: 4, underWay: 1 },
  '2000x2, both send': { clients: 4000, members: 2, senders: 2, underWay: 1 },
};

function scenario({ clients, members, senders, underWay }, { tickets, enter }) {
  return `name = "bench"
clients.count = ${clients}
clients.enter = "${enter ?? 'lobby'}"
clients.tickets = ${tickets === true}
lobbies.sizes = [{ members = ${members} }]
[[senders]]
per_lobby = ${senders}
rate = 1
under_way = ${underWay}
kind = "game"
class = "ordered"
bytes = 100
[[phases]]
name = "come"
kind = "ramp"
seconds = ${Math.max(2, clients / 1000)}
load = 0
[[phases]]
name = "rest"
seconds = 1
load = 0
[[phases]]
name = "measure"
seconds = ${options.seconds}
[generator]
lag_p99_ms = 100000
`;
}

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
  for (let tries = 0; tries < 600; tries++) {
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
class Peer {
  children = [];
  folder = mkdtempSync(path.join(tmpdir(), 'mlms-bench-'));

  async start(program, args, port, env = {}) {
    const others = Object.entries(process.env).filter(([name]) => !name.startsWith('MLMS_'));
    const settings = { cwd: this.folder, stdio: 'ignore', env: { ...Object.fromEntries(others), ...env } };
    const child = spawn(program, args, settings);
    this.children.push(child);
    await listening(port, child);
    return child;
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
      MLMS_LIMIT_CREATES_PER_MINUTE: '0',
      MLMS_LIMIT_JOINS_PER_S: '0',
      MLMS_LIMIT_CONNECTIONS_PER_ADDRESS_MAX: '0',
    };
    for (let node = 1; node <= nodes; node++) {
      const [port, admin] = [await freePort(), await freePort()];
      const own = {
        MLMS_NODE_NAME: `node-${node}`,
        MLMS_NODE_LISTEN: `127.0.0.1:${port}`,
        MLMS_NODE_PUBLIC_URL: `ws://127.0.0.1:${port}/ws`,
        MLMS_ADMIN_LISTEN: `127.0.0.1:${admin}`,
      };
      await this.start(path.join(options.bin, 'mlms'), ['lobby-node'], port, { ...common, ...own });
    }
    const own = { MLMS_LISTEN: `127.0.0.1:${broker}`, MLMS_ADMIN_LISTEN: `127.0.0.1:${admin}` };
    await this.start(path.join(options.bin, 'mlms'), ['broker'], broker, { ...common, ...own });
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

const simple = (program, ...args) => async (peer) => {
  const port = await freePort();
  await peer.start(path.join(options.bin, program), [String(port), ...args], port);
  return port;
};
const peers = {
  floor: { start: simple('floor') },
  'floor, gathered': { start: simple('floor', '--gathered') },
  naive: { start: simple('naive') },
  direct: { start: (peer) => peer.cluster(1), tickets: true },
  broker: { start: (peer) => peer.cluster(1) },
  'two nodes': { start: (peer) => peer.cluster(2), tickets: true, enter: 'user' },
};

/** CPU microseconds a delivery, and deliveries a second. */
async function measure(peerName, caseName) {
  const [peer, settings] = [new Peer(), peers[peerName]];
  try {
    const port = await settings.start(peer);
    const file = path.join(peer.folder, 'scenario.toml');
    writeFileSync(file, scenario(cases[caseName], settings));
    const pids = peer.children.flatMap((child) => ['--pid', String(child.pid)]);
    const args = ['run', file, '--target', `ws://127.0.0.1:${port}`, '--secret', secret, '--out', peer.folder, '--quiet', ...pids];
    const ran = spawnSync(path.join(options.bin, 'loadtest'), args, { encoding: 'utf8' });
    if (ran.status !== 0) throw new Error(`${peerName}, ${caseName}: exit code ${ran.status}\n${ran.stdout}${ran.stderr}`);
    const result = JSON.parse(readFileSync(path.join(peer.folder, 'result.json'), 'utf8'));
    const phase = result.phases.find((phase) => phase.name === 'measure');
    return { cpu: phase.server_cpu_us_per_delivery, rate: phase.counts.deliveries / (phase.to - phase.from) };
  } finally {
    await peer.stop();
  }
}

const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
const chosen = (given, all) => (given ? given.split(';').map((name) => name.trim()) : Object.keys(all));

async function main() {
  const [caseNames, peerNames, rounds] = [chosen(options.cases, cases), chosen(options.peers, peers), Number(options.rounds)];
  const rows = [];
  for (const caseName of caseNames) {
    const measured = Object.fromEntries(peerNames.map((name) => [name, []]));
    for (let round = 0; round < rounds; round++) {
      // Every second round the other way round, so that what warms up favours nobody.
      for (const name of round % 2 ? peerNames.toReversed() : peerNames) {
        const it = await measure(name, caseName);
        measured[name].push(it);
        console.error(`${caseName}, round ${round + 1}, ${name}: ${it.cpu.toFixed(2)} µs, ${it.rate.toFixed(0)} deliveries/s`);
      }
    }
    for (const name of peerNames) {
      const ratios = measured[name].map((it, round) => it.cpu / (measured.floor ?? measured[name])[round].cpu);
      const spread = `${Math.min(...ratios).toFixed(2)}–${Math.max(...ratios).toFixed(2)}`;
      const [cpu, rate] = [median(measured[name].map((it) => it.cpu)), median(measured[name].map((it) => it.rate))];
      rows.push(`| ${caseName} | ${name} | ${cpu.toFixed(2)} | ${median(ratios).toFixed(2)} | ${spread} | ${rate.toFixed(0)} |`);
    }
  }
  const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim();
  const table = [
    `Measured at ${commit}, ${rounds} round${rounds === 1 ? '' : 's'} of ${options.seconds} s, ${cpus().length} cores, load test on the same machine.`,
    '',
    '| case | peer | CPU µs a delivery | × floor | spread | deliveries/s |',
    '|---|---|---|---|---|---|',
    ...rows,
  ].join('\n');
  console.log(table);
  if (options.write) {
    const page = path.join(root, 'docs/performance.md');
    const text = readFileSync(page, 'utf8');
    writeFileSync(page, text.replace(/(<!-- bench -->\n)[\s\S]*?(<!-- \/bench -->)/, `$1${table}\n$2`));
  }
}

await main();
