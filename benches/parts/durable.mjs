/**
 * The part `durable`: how long an `ok` takes at 2,000 durable messages a second, with Redis on the same machine.
 */
import { loadtest, median, phaseOf, scenario, spread } from '../load.mjs';
import { Peer, peers } from '../peer.mjs';

export async function durable(options) {
  const settings = peers['direct, durable'];
  const [p50, p99] = [[], []];
  for (let round = 0; round < options.rounds; round++) {
    const peer = new Peer(options.bin);
    try {
      const port = await settings.start(peer);
      const text = scenario({ clients: 1_000, members: 10, senders: 4, rate: 5, seconds: 10, peer: settings });
      const { times } = phaseOf(await loadtest(peer, port, text), 'measure');
      p50.push(times.ok.p50);
      p99.push(times.ok.p99);
      options.say(`durable, round ${round + 1}: ok p50 ${times.ok.p50} ms, p99 ${times.ok.p99} ms`);
    } finally {
      await peer.stop();
    }
  }
  const row = (name, times) => `| ${name} | ${median(times).toFixed(2)} ms | ${spread(times)} |`;
  return ['| `ok` of a durable message, 2,000/s | median of the rounds | spread |', '|---|---|---|', row('p50', p50), row('p99', p99)].join('\n');
}
