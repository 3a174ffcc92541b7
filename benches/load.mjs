/**
 * Runs the load test (or, for Socket.IO, its own small one) against a peer, and reads what came out. A broken rule ends
 * the benchmark. The parts of the benchmark use it.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { Peer, peers, secret } from './peer.mjs';

/** Seconds in which everybody can come. Where members hear of each other's joins, those are as many as the square. */
function comeSeconds({ clients, members, peer }) {
  const told = peer.tellsJoins ? (clients * members) / 1e6 : 0;
  return Math.ceil(Math.max(2, clients / 1_000, told));
}

/** A scenario: everybody comes, rests a second, and then what is measured goes on for so many seconds. */
export function scenario({ clients, members, senders, underWay, rate, come, seconds, peer }) {
  const sender = `[[senders]]
per_lobby = ${senders}
rate = ${rate ?? 1}
arrivals = "even"
under_way = ${underWay ?? 0}
kind = "game"
class = "${peer.class ?? 'ordered'}"
bytes = 100
`;
  return `name = "bench"
clients.count = ${clients}
clients.enter = "${peer.enter ?? 'lobby'}"
clients.tickets = ${peer.tickets === true}
lobbies.sizes = [{ members = ${members} }]
${senders ? sender : ''}
[[phases]]
name = "come"
kind = "ramp"
seconds = ${come ?? comeSeconds({ clients, members, peer })}
load = 0
[[phases]]
name = "rest"
seconds = 1
load = 0
[[phases]]
name = "measure"
seconds = ${seconds}
[generator]
lag_p99_ms = 100000
`;
}

/** Runs a program to its end and gives what it printed. */
export async function run(program, args) {
  const child = spawn('sh', ['-c', 'ulimit -n "$(ulimit -H -n)"; exec "$0" "$@"', program, ...args]);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes) => (text += bytes));
  const code = await new Promise((resolve) => child.once('close', resolve));
  return { code, text };
}

/** One run of the load test; gives all of its result. */
export async function loadtest(peer, port, text, name = 'scenario') {
  const [file, out] = [path.join(peer.folder, `${name}.toml`), path.join(peer.folder, name)];
  writeFileSync(file, text);
  const pids = peer.children.flatMap((child) => ['--pid', String(child.pid)]);
  const args = ['run', file, '--target', `ws://127.0.0.1:${port}`, '--secret', secret, '--out', out, '--quiet', ...pids];
  const ran = await run(path.join(peer.bin, 'loadtest'), args);
  if (ran.code !== 0) throw new Error(`the load test ended with ${ran.code}\n${ran.text}`);
  return JSON.parse(readFileSync(path.join(out, 'result.json'), 'utf8'));
}

export const phaseOf = (result, name) => result.phases.find((phase) => phase.name === name);

/** CPU microseconds a delivery and deliveries a second of one peer in one case. */
export async function measure(bin, peerName, shape, seconds) {
  const [peer, settings] = [new Peer(bin), peers[peerName]];
  try {
    const port = await settings.start(peer);
    if (settings.load) {
      const script = fileURLToPath(new URL(`peers/${settings.load}`, import.meta.url));
      const plan = JSON.stringify({ ...shape, bytes: 100, seconds });
      const ran = await run(process.execPath, [script, String(port), String(peer.children[0].pid), plan]);
      if (ran.code !== 0) throw new Error(`${peerName}: ${ran.text}`);
      return JSON.parse(ran.text);
    }
    const result = await loadtest(peer, port, scenario({ ...shape, seconds, peer: settings }));
    const phase = phaseOf(result, 'measure');
    return {
      cpu: phase.server_cpu_us_per_delivery,
      rate: phase.counts.deliveries / (phase.to - phase.from),
      ok: phase.times.ok,
    };
  } finally {
    await peer.stop();
  }
}

export const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
export const spread = (numbers) => `${Math.min(...numbers).toFixed(2)}–${Math.max(...numbers).toFixed(2)}`;
