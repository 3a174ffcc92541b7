/**
 * The part `neighbours`: a hundred lobbies of ten with and without one lobby of 10,000 beside them, in which a message
 * goes to everybody each second.
 */
import { setTimeout as sleep } from 'node:timers/promises';

import { loadtest, median, phaseOf, scenario, spread } from '../load.mjs';
import { Peer, peers } from '../peer.mjs';

export async function neighbours(options) {
  const peer = peers.direct;
  const small = scenario({ clients: 1_000, members: 10, senders: 1, rate: 2, seconds: 20, peer });
  const large = scenario({ clients: 10_000, members: 10_000, senders: 1, rate: 1, come: 120, seconds: 40, peer });
  const measured = { alone: [], beside: [] };
  for (let round = 0; round < options.rounds; round++) {
    for (const name of ['alone', 'beside']) {
      const service = new Peer(options.bin);
      try {
        const port = await peer.start(service);
        const giant = name === 'beside' ? loadtest(service, port, large, 'large') : undefined;
        if (giant) await sleep(124_000);
        const times = phaseOf(await loadtest(service, port, small, 'small'), 'measure').times.delivery;
        measured[name].push(times);
        await giant;
      } finally {
        await service.stop();
      }
    }
  }
  const of = (name, key) => measured[name].map((times) => times[key]);
  const ratio = measured.alone.map((times, round) => measured.beside[round].p99 / times.p99);
  const rows = ['| the small lobbies’ delivery | p50 | p99 | max |', '|---|---|---|---|'];
  for (const [name, text] of [['alone', 'alone'], ['beside', 'beside a lobby of 10,000']]) {
    const [p50, p99, max] = ['p50', 'p99', 'max'].map((key) => median(of(name, key)).toFixed(1));
    rows.push(`| ${text} | ${p50} ms | ${p99} ms | ${max} ms |`);
  }
  return `${rows.join('\n')}\n\np99 beside it, times p99 alone: ${median(ratio).toFixed(2)} (${spread(ratio)}).`;
}
