/** The operator's view: how the service is, from `/health`, and how fast that changes. For tokens of the role `admin`. */
import { byId, element, say } from '/element.js';

const REFRESH_MS = 2_000;
/** Samples kept for the rates. */
const SAMPLES_MAX = 30;

/** Begins to watch. @returns {() => void} ends it */
export function watchService() {
  const samples = [];
  let stopped = false;
  let timer;
  async function refresh() {
    if (document.visibilityState === 'visible') {
      try {
        const began = performance.now();
        const response = await fetch('/health', { cache: 'no-store' });
        const health = await response.json(); // 503 tells as much
        if (stopped) return;
        samples.push({ at: Date.now(), health });
        if (samples.length > SAMPLES_MAX) samples.shift();
        draw(samples, performance.now() - began);
        say(byId('operator-error'), '');
      } catch {
        if (!stopped) say(byId('operator-error'), 'The service does not answer. What stands here is what it last said.');
      }
    }
    if (!stopped) timer = setTimeout(refresh, REFRESH_MS);
  }
  void refresh();
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

function draw(samples, tookMs) {
  const { health } = samples.at(-1);
  const nodes = Array.isArray(health.nodes) ? health.nodes : [];
  const state = byId('operator-state');
  const word = String(health.state ?? 'unknown');
  state.dataset.state = word;
  say(state, { up: 'Everything works', ok: 'Everything works', healthy: 'Everything works', degraded: 'Something is missing', down: 'Something is down' }[word] ?? word);
  const total = (name) => nodes.reduce((sum, node) => sum + (Number(node[name]) || 0), 0);
  const figures = [
    ['Nodes', nodes.length], ['Connections', total('sessions'), rate(samples, 'sessions')], ['Lobbies', total('lobbies'), rate(samples, 'lobbies')],
    ['Shards owned', total('shards')], ['Answer took', `${Math.round(tookMs)} ms`],
  ];
  byId('operator-figures').replaceChildren(...figures.map(([name, value, change]) =>
    element('div', {}, element('dt', {}, name), element('dd', {}, String(value), change ? element('span', { class: 'hint' }, ` ${change}`) : null))));
  const services = Object.entries(health.services ?? {});
  byId('operator-services').replaceChildren(...services.map(([name, condition]) => element(
    'tr', {}, element('th', { scope: 'row' }, name), element('td', {}, stateTag(condition?.state)),
    element('td', {}, latencyOf(condition)), element('td', { class: 'wrap' }, condition?.cause ?? condition?.detail ?? ''),
  )));
  byId('operator-nodes').replaceChildren(...nodes.map((node) => element(
    'tr', {}, element('th', { scope: 'row' }, String(node.name)), element('td', {}, stateTag(node.state)),
    ...['sessions', 'lobbies', 'shards'].map((name) => element('td', { class: 'number' }, String(node[name] ?? '–'))),
  )));
}

function stateTag(state) {
  const word = String(state ?? 'unknown');
  const good = ['up', 'ok', 'ready', 'healthy'].includes(word);
  return element('span', { class: `tag ${good ? 'good' : 'bad'}` }, word);
}

function latencyOf(condition) {
  const ms = condition?.latency_ms ?? condition?.latency;
  return Number.isFinite(ms) ? `${ms} ms` : '';
}

/** How a sum over the nodes changed in the last minute at most, in words. */
function rate(samples, name) {
  const sum = ({ health }) => (health.nodes ?? []).reduce((all, node) => all + (Number(node[name]) || 0), 0);
  const [first, last] = [samples[0], samples.at(-1)];
  const minutes = (last.at - first.at) / 60_000;
  if (minutes < 0.05) return '';
  const perMinute = (sum(last) - sum(first)) / minutes;
  return `${perMinute >= 0 ? '+' : '−'}${Math.abs(perMinute).toFixed(0)} a minute`;
}
