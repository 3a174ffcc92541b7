/** Makes what is published of `src/`: one file without comments, as small as it gets. `node scripts/build.js` */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const { name, version, license } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));

/** @param {{write: boolean}} how @returns {Promise<string>} the file */
export async function bundle({ write }) {
  const made = await build({
    absWorkingDir: root,
    entryPoints: ['src/index.js'],
    outfile: 'dist/index.js',
    bundle: true,
    minify: true,
    format: 'esm',
    target: 'es2022',
    banner: { js: `/*! ${name} ${version}, ${license} */` },
    write,
  });
  return write ? readFileSync(path.join(root, 'dist/index.js'), 'utf8') : made.outputFiles[0].text;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await bundle({ write: true });
