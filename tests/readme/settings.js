/**
 * The table of settings in README.md, made from `mlms default-config`.
 * `node tests/readme/settings.js` writes it into the page.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const binary = process.env.MLMS_BIN ?? fileURLToPath(new URL('../../target/release/mlms', import.meta.url));
export const readme = fileURLToPath(new URL('../../README.md', import.meta.url));

const block = /(<!-- settings: .*-->\n)[\s\S]*?(<!-- \/settings -->)/;

/** The blocks of the file: comment lines, `# Environment: NAME`, and `name = value` or, without a default, `# name = …`. */
function settings(text) {
  const found = [];
  let section = '';
  let words = [];
  let environment = null;
  for (const line of text.split('\n')) {
    const [, title] = line.match(/^\[(\w+)\]$/) ?? [];
    const [, variable] = line.match(/^# Environment: (\w+)$/) ?? [];
    const [, unset, name, value] = line.match(/^(# )?(\w+) = (.*)$/) ?? [];
    if (title) section = `${title}.`;
    else if (variable) environment = variable;
    else if (name && environment) {
      found.push({ name: section + name, environment, value: unset ? '' : value, words: words.join(' ') });
      [words, environment] = [[], null];
    } else if (line.startsWith('# ')) words.push(line.slice(2));
    else if (line === '') words = [];
  }
  return found;
}

/** What stands between the two marks. */
export function table() {
  const text = execFileSync(binary, ['default-config'], { encoding: 'utf8' });
  const cell = (words) => words.replaceAll('|', '\\|');
  const rows = settings(text).map(
    ({ name, environment, value, words }) => `| \`${name}\` | \`${environment}\` | ${value ? `\`${cell(value)}\`` : ''} | ${cell(words)} |`,
  );
  return ['| setting | environment | default | meaning |', '|---|---|---|---|', ...rows, ''].join('\n');
}

/** @param {string} page */
export const shown = (page) => page.match(block)?.[0].split('\n').slice(1, -1).join('\n').concat('\n');

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const page = readFileSync(readme, 'utf8');
  writeFileSync(readme, page.replace(block, (_, start, end) => start + table() + end));
}
