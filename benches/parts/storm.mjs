/**
 * The part `storm`: 5,000 clients connect at once, each with a token that is verified and a ticket, and join lobbies of
 * ten. The floor reads a token and does not check it, and tells nobody who comes: what connecting costs by itself.
 */
import { loadtest, median, phaseOf, scenario, spread } from '../load.mjs';
import { Peer, cpuSeconds, peers } from '../peer.mjs';

const clients = 5_000;

export async function storm(options) {
  const rows = ['| road | joins/s | spread | CPU µs a join | last one in after | refused |', '|---|---|---|---|---|---|'];
  for (const road of ['floor', 'direct', 'broker']) {
    const [rates, costs, lasts] = [[], [], []];
    let refused = 0;
    for (let round = 0; round < options.rounds; round++) {
      const [peer, settings] = [new Peer(options.bin), peers[road]];
      try {
        const port = await settings.start(peer);
        const used = () => peer.children.reduce((sum, child) => sum + cpuSeconds(child), 0);
        const before = used();
        const text = scenario({ clients, members: 10, senders: 0, seconds: 2, come: 20, peer: settings });
        const result = await loadtest(peer, port, text.replace('kind = "ramp"', 'kind = "spike"'));
        const come = phaseOf(result, 'come');
        const last = come.times.join.max / 1_000;
        rates.push(come.counts.joins / last);
        costs.push(((used() - before) * 1e6) / clients);
        lasts.push(last);
        refused += come.counts.connect_failures + come.counts.errors + come.counts.retries;
      } finally {
        await peer.stop();
      }
    }
    rows.push(`| ${road} | ${median(rates).toFixed(0)} | ${spread(rates)} | ${median(costs).toFixed(0)} | ${median(lasts).toFixed(2)} s | ${refused} |`);
    options.say(rows.at(-1));
  }
  return rows.join('\n');
}
