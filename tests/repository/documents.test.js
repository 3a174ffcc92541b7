/** The pages hold together: links lead somewhere, lengths are kept, decisions have their parts. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

import { files, read, root } from './repository.js';

const pages = files.filter((name) => name.endsWith('.md'));

test('every relative link leads to a file', () => {
  const dead = [];
  for (const page of pages) {
    const text = read(page).replace(/```[\s\S]*?```/g, '');
    for (const [, link] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^([a-z]+:|#)/.test(link)) continue;
      if (!existsSync(path.join(root, path.dirname(page), link.split('#')[0]))) dead.push(`${page}: ${link}`);
    }
  }
  assert.deepEqual(dead, []);
});

test('ARCHITECTURE.md stays readable at one sitting', () => {
  assert.ok(read('ARCHITECTURE.md').split('\n').length < 200);
});

test('every folder that ARCHITECTURE.md maps exists', () => {
  const rows = [...read('ARCHITECTURE.md').matchAll(/^\| `([a-z/-]+)\/` \|/gm)];
  assert.ok(rows.length >= 9, 'the code map has a row for each crate');
  for (const [, folder] of rows) assert.ok(existsSync(path.join(root, folder)), folder);
});

test('decisions are numbered without gaps and have their three parts', () => {
  const decisions = files.filter((name) => /^docs\/decisions\/\d{4}-[a-z0-9-]+\.md$/.test(name)).sort();
  decisions.forEach((name, index) => {
    assert.equal(Number(path.basename(name).slice(0, 4)), index + 1, name);
    for (const part of ['## Context', '## Decision', '## Consequences']) assert.ok(read(name).includes(`\n${part}\n`), `${name}: ${part}`);
  });
  assert.ok(decisions.length > 0);
});
