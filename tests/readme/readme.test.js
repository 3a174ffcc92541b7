/** Does what README.md says: the settings, the tour with wscat, and both client examples. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Service } from '../page/service.js';
import { binary, readme, shown, table } from './settings.js';

const page = readFileSync(readme, 'utf8');
const here = fileURLToPath(new URL('.', import.meta.url));
/** The bodies of the page's code blocks in one language. */
const blocks = (language) => [...page.matchAll(new RegExp(`^\`\`\`${language}\n([\\s\\S]*?)^\`\`\``, 'gm'))].map((match) => match[1]);

let service;
before(async () => {
  service = await Service.start();
});
after(() => service.stop());

/** The page's words, with this run's port and binary in the place of the defaults. */
const here_and_now = (text) => text.replaceAll('localhost:8080', `127.0.0.1:${service.port}`).replaceAll('target/release/mlms', binary);

/** A command of the page in a shell, in the folder where the service runs; its output can be waited for. */
class Shell {
  output = '';
  #waiting = null;

  constructor(command, { cwd = service.folder, input } = {}) {
    // The binary takes an MLMS_ variable that it does not know for a mistake.
    const others = Object.entries(process.env).filter(([name]) => !name.startsWith('MLMS_'));
    const env = {
      ...Object.fromEntries(others),
      PATH: `${path.join(here, 'node_modules/.bin')}:${process.env.PATH}`,
      MLMS_DATABASE_URL: `sqlite://${path.join(service.folder, 'mlms.db')}`,
    };
    // A group of its own: what the shell started ends with it.
    this.child = spawn('bash', ['-c', command], { cwd, env, detached: true });
    if (input !== undefined) this.child.stdin.end(input);
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        this.output += text;
        this.#waiting?.();
      });
    }
    this.child.on('exit', () => this.#waiting?.());
  }

  /** Waits until the output matches, and returns the match. */
  async says(pattern) {
    const deadline = setTimeout(() => this.stop(), 30_000);
    for (;;) {
      const match = this.output.match(pattern);
      if (match) {
        clearTimeout(deadline);
        return match;
      }
      if (this.child.exitCode !== null || this.child.signalCode !== null) {
        clearTimeout(deadline);
        assert.fail(`no ${pattern} in:\n${this.output}`);
      }
      await new Promise((resolve) => (this.#waiting = resolve));
    }
  }

  type(line) {
    this.child.stdin.write(`${line}\n`);
  }

  async stop() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const exited = once(this.child, 'exit');
    try {
      process.kill(-this.child.pid, 'SIGKILL');
    } catch {
      // It has ended by itself, and the event is on its way.
    }
    await exited;
  }
}

test('the table of settings is what the binary says (node tests/readme/settings.js writes it)', () => {
  const [here, there] = [shown(page).split('\n'), table().split('\n')];
  assert.deepEqual(here.filter((row) => !there.includes(row)), [], 'rows that the binary does not know');
  assert.deepEqual(there, here);
});

test('the tour with wscat goes as it is told', async () => {
  const [command] = blocks('sh').filter((block) => block.startsWith('wscat'));
  const lines = blocks('json')[0].trim().split('\n');
  const ann = new Shell(here_and_now(command));
  const bob = new Shell(here_and_now(command.replace('Ann', 'Bob')));
  try {
    for (const shell of [ann, bob]) {
      await shell.says(/"ev":"welcome"/);
      await shell.says(/"ev":"snapshot"/);
    }
    for (const line of lines) {
      ann.type(line);
      await ann.says(new RegExp(`"id":${JSON.parse(line).id},"ok":`));
    }
    const [, seq] = await ann.says(/"id":1,"ok":\{[^}]*"seq":(\d+)/);
    await ann.says(new RegExp(`"id":2,"ok":\\{[^}]*"seq":${seq}\\b[^}]*"dup":true`));
    await ann.says(/"id":4,"ok":\{"events":\[.*"body":"hello"/);
    await bob.says(/"body":\{"move":"e4"\}/);
    assert.equal(bob.output.match(/"body":"hello"/g).length, 1, 'the repeated message comes once');
  } finally {
    await ann.stop();
    await bob.stop();
  }
  await service.kill();
  await service.run();
  const again = new Shell(here_and_now(command));
  try {
    await again.says(/"ev":"snapshot".*"body":"hello"/);
  } finally {
    await again.stop();
  }
});

test('the JavaScript example runs', async () => {
  const [code] = blocks('js');
  assert.ok(code.trim().split('\n').length <= 20, 'it is short');
  const example = new Shell('exec node --input-type=module -', { cwd: here, input: here_and_now(code) });
  try {
    await example.says(/kept as number \d+/);
    await example.says(/: hello from JavaScript/);
  } finally {
    await example.stop();
  }
});

test('the Rust example is the one in the tree, and runs', async () => {
  const [code] = blocks('rust');
  assert.ok(code.trim().split('\n').length <= 20, 'it is short');
  const source = readFileSync(new URL('../../clients/rust/examples/hello.rs', import.meta.url), 'utf8');
  assert.equal(code, source.replace(/^\/\/!.*\n\n/, ''));
  const program = path.join(path.dirname(binary), 'examples/hello');
  const example = new Shell(here_and_now(`exec ${program} ws://localhost:8080 "$(target/release/mlms token --guest Ann)"`));
  try {
    await example.says(/: hello from Rust/);
  } finally {
    await example.stop();
  }
});
