/** Makes what is published of `src/`: one file without comments, as small as it gets. `node scripts/build.js` */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const { name, version, license } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));

const file = path.join(root, 'dist/index.js');

/** @returns {Promise<string>} what the file is to be */
export async function bundle() {
  const made = await build({
    absWorkingDir: root,
    entryPoints: ['src/index.js'],
    outfile: file,
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    banner: { js: `/*! ${name} ${version}, ${license} */` },
    write: false,
  });
  return made.outputFiles[0].text;
}

/** Writes the file. One that is as it should be is left alone: the broker holds it, and would be compiled again. */
async function write() {
  const made = await bundle();
  if (!existsSync(file) || readFileSync(file, 'utf8') !== made) writeFileSync(file, made);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await write();
