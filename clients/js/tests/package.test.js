import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import ts from 'typescript';

import { bundle } from '../scripts/build.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const source = path.join(root, 'src');
const host = { getCanonicalFileName: String, getCurrentDirectory: () => '', getNewLine: () => '\n' };

/** The page of the service carries it too, and is built without npm: so it is kept, and must be what the sources make. */
const built = () => readFileSync(path.join(root, 'dist/index.js'), 'utf8');

test('what_is_shipped_is_what_is_written', async () => {
  assert.ok(built() === (await bundle()), 'dist/index.js is older than src: npm run build');
});

test('what_is_shipped_stays_small', () => {
  const bytes = gzipSync(built()).length;
  assert.ok(bytes < 12 * 1024, `${bytes} bytes gzipped`);
});

test('the_types_hold', () => {
  const read = ts.readConfigFile(path.join(root, 'tsconfig.json'), ts.sys.readFile);
  const config = ts.parseJsonConfigFileContent(read.config, ts.sys, root);
  const problems = ts.getPreEmitDiagnostics(ts.createProgram(config.fileNames, config.options));
  assert.equal(ts.formatDiagnostics(problems, host), '');
});

/** What a game's developer writes; each line behind `@ts-expect-error` is a mistake that the types find. */
const CONSUMER = `
import { Client, MlmsError, type Message } from 'mlms-client';

const client = new Client({ url: 'https://play.example/ws', token: async (reason) => \`\${reason}\` });
client.on('state', ({ state, retryAt }) => { const at: number | undefined = retryAt; void at; if (state === 'waiting') client.retryNow(); });
client.on('achievement', ({ achievement }) => console.log(achievement.toUpperCase()));
const lobby = await client.join('lounge', { create: { name: 'The Lounge', visibility: 'public' } });
lobby.on('message', (message: Message) => console.log(message.from, message.body));
lobby.on('reported', ({ stat, amount }) => console.log(stat.length + amount));
lobby.on('*', (name) => console.log(name.length));
const { seq } = await lobby.chat('hello');
await lobby.edit(seq, 'hello!');
await lobby.ban('bob', { for_s: 60, reason: 'loud' });
const { unread } = await lobby.read(seq);
await lobby.retain('score', [unread, lobby.unread]);
await lobby.reportMessage(seq, 'rude');
const { users } = await client.block('bob');
console.log(users.length, lobby.retained.get('score')?.body);
const started = await lobby.next('game_started', ({ game }) => game > 0);
started.game.toFixed();
lobby.on('ended', (error) => error instanceof MlmsError && error.retryMs);
// @ts-expect-error there is no such event
lobby.on('massage', () => {});
// @ts-expect-error a game's number is no text
started.game.toUpperCase();
// @ts-expect-error a client takes a token
new Client({ url: '/ws' });
// @ts-expect-error there is no such role
void lobby.role('bob', 'king');
`;

test('what_is_published_is_clean_and_can_be_used', (t) => {
  const folder = mkdtempSync(path.join(tmpdir(), 'mlms-client-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const env = { ...process.env, npm_config_update_notifier: 'false' };
  const [packed] = JSON.parse(execFileSync('npm', ['pack', '--json', '--silent', '--pack-destination', folder], { cwd: root, env, encoding: 'utf8' }).replace(/^[^[]*/, ''));
  const files = packed.files.map((file) => file.path);
  const expected = readdirSync(source).map((name) => `types/${name.replace(/\.js$/, '.d.ts')}`);
  assert.deepEqual(files.toSorted(), ['README.md', 'dist/index.js', 'package.json', ...expected].toSorted());
  assert.ok(packed.size < 24 * 1024, `${packed.size} bytes packed, types and README included`);
  const place = path.join(folder, 'node_modules', 'mlms-client');
  mkdirSync(place, { recursive: true });
  execFileSync('tar', ['-xzf', path.join(folder, packed.filename), '-C', place, '--strip-components=1']);
  writeFileSync(path.join(folder, 'package.json'), '{"type":"module"}');
  writeFileSync(path.join(folder, 'game.ts'), CONSUMER);
  const options = { strict: true, noEmit: true, target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext, moduleResolution: ts.ModuleResolutionKind.NodeNext, lib: ['lib.es2022.d.ts', 'lib.dom.d.ts'], types: [] };
  const problems = ts.getPreEmitDiagnostics(ts.createProgram([path.join(folder, 'game.ts')], options));
  assert.equal(ts.formatDiagnostics(problems, host), '');
  const said = execFileSync('node', ['-e', "import('mlms-client').then((all) => console.log(Object.keys(all).sort().join(' ')))"], { cwd: folder, encoding: 'utf8' });
  assert.equal(said.trim(), 'Client Lobby MlmsError makeNonce');
});
