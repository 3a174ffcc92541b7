/**
 * Measures the service beside its peers, in one run. The load test generates the load and checks every delivery; a run in
 * which a rule is broken ends the benchmark.
 *
 *   node benches/run.mjs [PART …] [--rounds 9] [--seconds 5] [--cases 'A;B'] [--peers 'floor;direct'] [--write]
 *
 * Parts: ratios (the default), durable, curves, storm, neighbours, memory, aims (holds the page's tables against what was
 * to be reached), or all. The binaries are those of target/release (or of --bin FOLDER); redis-server must be installed,
 * and `npm ci` have been run in benches/peers for Socket.IO and uWebSockets.js. With --write the tables go into
 * docs/performance.md, the plots into docs/plots.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { aims } from './parts/aims.mjs';
import { curves } from './parts/curves.mjs';
import { durable } from './parts/durable.mjs';
import { memory } from './parts/memory.mjs';
import { neighbours } from './parts/neighbours.mjs';
import { ratios } from './parts/ratios.mjs';
import { storm } from './parts/storm.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const page = path.join(root, 'docs/performance.md');
const parts = { ratios, durable, curves, storm, neighbours, memory, aims: () => aims(readFileSync(page, 'utf8')) };
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '9' },
    seconds: { type: 'string', default: '5' },
    cases: { type: 'string' },
    peers: { type: 'string' },
    bin: { type: 'string', default: path.join(root, 'target/release') },
    write: { type: 'boolean', default: false },
  },
});

function keep(part, text) {
  const [begin, end] = [`<!-- bench ${part} -->\n`, `<!-- /bench ${part} -->`];
  const before = readFileSync(page, 'utf8');
  const [from, to] = [before.indexOf(begin), before.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/performance.md has no place for ${part}`);
  writeFileSync(page, before.slice(0, from + begin.length) + text + before.slice(to));
}

const options = {
  ...values,
  rounds: Number(values.rounds),
  seconds: Number(values.seconds),
  say: (text) => console.error(text),
  draw: (file, svg) => {
    if (!values.write) return;
    mkdirSync(path.join(root, 'docs/plots'), { recursive: true });
    writeFileSync(path.join(root, 'docs/plots', file), svg);
  },
};
const wanted = positionals.includes('all') ? Object.keys(parts) : positionals.length ? positionals : ['ratios'];
const unknown = wanted.filter((part) => !parts[part]);
if (unknown.length) throw new Error(`there is no part ${unknown.join(', ')}; there are ${Object.keys(parts).join(', ')}`);
const commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { cwd: root, encoding: 'utf8' }).trim();
for (const part of wanted) {
  const table = await parts[part](options);
  const rounds = part === 'memory' ? 1 : options.rounds;
  const how = `Measured at ${commit}: ${rounds} round${rounds === 1 ? '' : 's'}, ${cpus().length} cores, load on the same machine.`;
  const text = part === 'aims' ? `${table}\n` : `${how}\n\n${table}\n`;
  console.log(`${part}: ${text}`);
  if (values.write) keep(part, text);
}
