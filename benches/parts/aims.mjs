/**
 * The part `aims`: what this service was to reach, beside what the tables of docs/performance.md say. Measures nothing: it
 * reads the page, so that the two never contradict each other.
 */
const [alone, gathered, small, pairs] = ['1x1000, 1 under way', '1x1000, 32 under way', '100x10, 4 senders', '2000x2, both send'];
const all = [alone, gathered, small, pairs];

/** The rows of the table between a part's marks, each a list of cells. */
function rowsOf(page, part) {
  const [begin, end] = [page.indexOf(`<!-- bench ${part} -->`), page.indexOf(`<!-- /bench ${part} -->`)];
  if (begin < 0 || end < begin) throw new Error(`docs/performance.md has no place for ${part}`);
  const rows = page.slice(begin, end).split('\n').filter((line) => line.startsWith('| '));
  return rows.map((line) => line.slice(2, -2).split(' | '));
}

export function aims(page) {
  const ratios = rowsOf(page, 'ratios');
  const cell = (it, peer, column) => {
    const row = ratios.find(([name, of]) => name === it && of === peer);
    if (!row) throw new Error(`there is no row of ${peer} at ${it}`);
    return Number(row[column]);
  };
  const floors = (it, peer = 'direct') => cell(it, peer, 3);
  const over = (one, other) => all.map((it) => cell(it, `${one} / ${other}`, 2));
  const row = (part, name) => rowsOf(page, part).find(([first]) => first === name);
  const number = (part, name, column) => Number.parseFloat(row(part, name)[column]);

  const lines = [];
  /** One aim; several values are held against a bound each, or all against one. Without `holds` they are only told. */
  const aim = (what, told, values, holds, command, digits = 2) => {
    // What is told is what is judged.
    const given = values.map((value) => value.toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: digits }));
    const missed = values.filter((value, index) => holds?.(Number(value.toFixed(digits)), index) === false).length;
    const verdict = !holds ? 'see below' : missed === 0 ? 'met' : missed === values.length ? 'missed' : `missed in ${missed} of ${values.length}`;
    lines.push(`| ${what} | ${told} | ${given.join(', ')} | ${verdict} | \`just bench ${command}\` |`);
  };
  const below = (...bounds) => (value, index) => value <= (bounds[index] ?? bounds[0]);
  const above = (...bounds) => (value, index) => value >= (bounds[index] ?? bounds[0]);

  const of = (it, ...others) => `ratios --cases '${it}' --peers '${['floor', ...others].join(';')}'`;
  aim('1 × 1000, one under way', '≤ 1.15 × floor', [floors(alone)], below(1.15), of(alone, 'direct'));
  aim('1 × 1000, 32 under way', '≤ 0.1 × floor', [floors(gathered)], below(0.1), of(gathered, 'direct'));
  aim('100 × 10, four under way a lobby', '≤ 0.8 × floor', [floors(small)], below(0.8), of(small, 'direct'));
  aim('2000 × 2, both send', '≤ 1.4 × floor', [floors(pairs)], below(1.4), of(pairs, 'direct'));
  const [first, ...rest] = over('direct, durable', 'direct');
  const durable = "ratios --peers 'direct;direct, durable'";
  aim('durable, 1 × 1000, one under way', '≤ 2 × ordered', [first], below(2), durable);
  aim('durable, the other three', 'explained', rest, undefined, durable);
  aim('against uWebSockets.js, the four', '≤ 1.0 × its', over('direct', 'uWebSockets.js'), below(1), "ratios --peers 'direct;uWebSockets.js'");
  aim('Socket.IO against ours, the four', '≥ 5 × (2000 × 2: ≥ 4 ×)', over('Socket.IO', 'direct'), above(5, 5, 5, 4), "ratios --peers 'direct;Socket.IO'");
  aim('the tunnel against direct, the four', '≤ 2.2 ×', over('broker', 'direct'), below(2.2), "ratios --peers 'direct;broker'");
  aim('two nodes, 1 × 1000 and 100 × 10', '≤ 1.5 and ≤ 4 × floor', [floors(alone, 'two nodes'), floors(small, 'two nodes')], below(1.5, 4), "ratios --peers 'floor;two nodes'");
  aim('KiB of a node for an idle joined connection', '≤ 5', [number('memory', '10000 direct', 1) / 1024], below(5), 'memory');
  aim('KiB of a tunnel', '≤ 4', [number('memory', '5000 broker', 2) / 1024], below(4), 'memory');
  aim('storm, joins a second direct', '≥ 12,000', [number('storm', 'direct', 1)], above(12_000), 'storm', 0);
  aim('storm, refused', '0', [number('storm', 'direct', 5)], below(0), 'storm', 0);
  const beside = Number.parseFloat(/p99 beside it, times p99 alone: ([\d.]+)/.exec(page)?.[1]);
  aim('others’ p99 beside a lobby of 10,000', '≤ 2 × without it', [beside], below(2), 'neighbours');
  aim('`ok` of a durable message at 2,000/s, p99 in ms', '≤ 10', [number('durable', 'p99', 1)], below(10), 'durable', 1);
  return ['| what | aim | here | | measured by |', '|---|---|---|---|---|', ...lines].join('\n');
}
