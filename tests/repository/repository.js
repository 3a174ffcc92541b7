/** The files of this repository, as git has them. */
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));

/** Names of all files that are tracked and there, relative to the root. */
export const files = execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26 })
  .split('\0')
  .filter((name) => name !== '' && existsSync(path.join(root, name)) && lstatSync(path.join(root, name)).isFile());

/** @param {string} name */
export const read = (name) => readFileSync(path.join(root, name), 'utf8');
