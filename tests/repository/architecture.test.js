/** The dependency direction that ARCHITECTURE.md draws holds in every Cargo.toml. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

import { root } from './repository.js';

/** What any crate may import in its tests, on top of the drawn direction: a judge, a player, and real servers. */
const onlyInTests = new Set(['checker', 'clients/rust', 'tests/servers']);

/** The chains of the first code block behind the heading: `a ← b, c ← d` lets c and d use a, and d use b and c. */
function drawn() {
  const page = readFileSync(path.join(root, 'ARCHITECTURE.md'), 'utf8');
  const block = page.match(/## Dependency direction[\s\S]*?```\n([\s\S]*?)```/);
  assert.ok(block, 'ARCHITECTURE.md has a code block behind "## Dependency direction"');
  const allowed = new Map();
  for (const line of block[1].trim().split('\n')) {
    const layers = line.split('←').map((layer) => layer.split(',').map((crate) => crate.trim()));
    layers.forEach((layer, height) => {
      const below = layers.slice(0, height).flat();
      for (const crate of layer) allowed.set(crate, new Set([...(allowed.get(crate) ?? []), ...below]));
    });
  }
  return allowed;
}

const metadata = JSON.parse(
  execFileSync('cargo', ['metadata', '--no-deps', '--locked', '--offline', '--format-version', '1'], { cwd: root, maxBuffer: 1 << 26 }),
);
/** A crate is called by its folder. */
const folder = (manifest) => path.relative(root, path.dirname(manifest));
const folders = new Map(metadata.packages.map((crate) => [crate.name, folder(crate.manifest_path)]));

test('every crate of the workspace is drawn, and nothing else', () => {
  assert.deepEqual([...drawn().keys()].sort(), [...folders.values()].sort());
});

for (const crate of metadata.packages) {
  const name = folder(crate.manifest_path);
  test(`${name} imports only what is below it`, () => {
    const allowed = drawn().get(name) ?? new Set();
    for (const dependency of crate.dependencies) {
      const used = folders.get(dependency.name);
      if (used === undefined || used === name) continue;
      const excused = dependency.kind === 'dev' && onlyInTests.has(used);
      assert.ok(allowed.has(used) || excused, `${name} imports ${used} (${dependency.kind ?? 'normal'}), which is not below it`);
    }
  });
}

test('the checker judges the service without its code', () => {
  const checker = metadata.packages.find((crate) => crate.name === 'mlms-checker');
  const own = checker.dependencies.filter((dependency) => dependency.kind !== 'dev' && folders.has(dependency.name));
  assert.deepEqual(own, []);
});
