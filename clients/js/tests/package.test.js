import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import test from 'node:test';
import { gzipSync } from 'node:zlib';
import ts from 'typescript';

const folder = new URL('../src/', import.meta.url);

test('the_code_stays_small', () => {
  const compilerOptions = { removeComments: true, target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 };
  let bytes = 0;
  for (const name of readdirSync(folder)) {
    const source = readFileSync(new URL(name, folder), 'utf8');
    bytes += gzipSync(ts.transpileModule(source, { compilerOptions }).outputText).length;
  }
  assert.ok(bytes < 12 * 1024, `${bytes} bytes, each file gzipped by itself, comments not counted`);
});

test('the_types_hold', () => {
  const read = ts.readConfigFile(new URL('../tsconfig.json', import.meta.url).pathname, ts.sys.readFile);
  const config = ts.parseJsonConfigFileContent(read.config, ts.sys, new URL('..', import.meta.url).pathname);
  const problems = ts.getPreEmitDiagnostics(ts.createProgram(config.fileNames, config.options));
  assert.equal(ts.formatDiagnostics(problems, { getCanonicalFileName: String, getCurrentDirectory: () => '', getNewLine: () => '\n' }), '');
});
