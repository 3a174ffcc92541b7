/**
 * The part `ratios`: for each case and round every peer in turn, the order turned round every second time, then each
 * peer's processor time for a delivery divided by the floor's of the same round, and those of the pairs that the aims
 * name.
 */
import { measure, median, spread } from '../load.mjs';
import { peers } from '../peer.mjs';

/** A case: its clients, sizes of lobbies, how many of each send, and how much of each is under way. */
const cases = {
  '1x1000, 1 under way': { clients: 1000, members: 1000, senders: 1, underWay: 1 },
  '1x1000, 32 under way': { clients: 1000, members: 1000, senders: 1, underWay: 32 },
  '100x10, 4 senders': { clients: 1000, members: 10, senders: 4, underWay: 1 },
  '2000x2, both send': { clients: 4000, members: 2, senders: 2, underWay: 1 },
};

/** What is held against each other besides the floor: one's cost a delivery times the other's. */
const pairs = [
  ['direct, durable', 'direct'],
  ['broker', 'direct'],
  ['direct', 'uWebSockets.js'],
  ['Socket.IO', 'direct'],
];

const chosen = (given, all) => (given ? given.split(';').map((name) => name.trim()) : Object.keys(all));

export async function ratios(options) {
  const [caseNames, peerNames] = [chosen(options.cases, cases), chosen(options.peers, peers)];
  const rows = ['| case | peer | CPU µs a delivery | × floor | spread | deliveries/s |', '|---|---|---|---|---|---|'];
  const between = ['| case | one / the other | median | spread |', '|---|---|---|---|'];
  for (const caseName of caseNames) {
    const measured = Object.fromEntries(peerNames.map((name) => [name, []]));
    for (let round = 0; round < options.rounds; round++) {
      // Every second round the other way round, so that what warms up favours nobody.
      for (const name of round % 2 ? peerNames.toReversed() : peerNames) {
        const it = await measure(options.bin, name, cases[caseName], options.seconds);
        measured[name].push(it);
        options.say(`${caseName}, round ${round + 1}, ${name}: ${it.cpu.toFixed(2)} µs, ${it.rate.toFixed(0)} deliveries/s`);
      }
    }
    for (const name of peerNames) {
      const of = measured[name].map((it, round) => it.cpu / (measured.floor ?? measured[name])[round].cpu);
      const [cpu, rate] = [median(measured[name].map((it) => it.cpu)), median(measured[name].map((it) => it.rate))];
      rows.push(`| ${caseName} | ${name} | ${cpu.toFixed(2)} | ${median(of).toFixed(2)} | ${spread(of)} | ${rate.toFixed(0)} |`);
    }
    for (const [one, other] of pairs.filter((pair) => pair.every((name) => measured[name]))) {
      const of = measured[one].map((it, round) => it.cpu / measured[other][round].cpu);
      between.push(`| ${caseName} | ${one} / ${other} | ${median(of).toFixed(2)} | ${spread(of)} |`);
    }
  }
  return [rows, between].filter((table) => table.length > 2).map((table) => table.join('\n')).join('\n\n');
}
