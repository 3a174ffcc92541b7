/** Nothing here works on one machine only: no paths of a machine, no registry of somebody's. */
import assert from 'node:assert/strict';
import test from 'node:test';

import { files, read } from './repository.js';

// Joined here, so that this file does not name them itself.
const paths = ['/wo' + 'rk/', '/ro' + 'ot/', '/Us' + 'ers/', '/tmp/' + 'helpers', '/tmp/' + 'target', '/opt/' + 'wheels'];
const hosts = ['registry.' + 'npmjs.org', 'registry.' + 'yarnpkg.com', 'files.' + 'pythonhosted.org', 'pypi' + '.org', 'index.' + 'crates.io', 'static.' + 'crates.io', 'proxy.' + 'golang.org'];
const home = /\/home\/[a-z]+\//;
/** Cargo writes the name of its own default registry for every crate; it is no setting. */
const locks = /(^|\/)Cargo\.lock$/;

function findings(found) {
  return files
    .filter((name) => !locks.test(name))
    .flatMap((name) => read(name).split('\n').flatMap((line, index) => (found(line) ? [`${name}:${index + 1}: ${line.trim().slice(0, 120)}`] : [])));
}

test('no file names a path of one machine', () => {
  // Not part of a longer path: `https://example.org/home/…` or `./a/root/b` are nobody's machine.
  const bare = (line, text) => {
    for (let at = line.indexOf(text); at !== -1; at = line.indexOf(text, at + 1)) if (!/[A-Za-z0-9_.$}-]/.test(line[at - 1] ?? ' ')) return true;
    return false;
  };
  assert.deepEqual(findings((line) => paths.some((text) => bare(line, text)) || home.test(line)), []);
});

test('no file names the host of a package registry', () => {
  assert.deepEqual(findings((line) => hosts.some((host) => line.includes(host))), []);
});

test('lock files carry no addresses of packages', () => {
  const locked = files.filter((name) => name.endsWith('package-lock.json'));
  assert.ok(locked.length > 0);
  for (const name of locked) assert.doesNotMatch(read(name), /"resolved": "http/, name);
});
