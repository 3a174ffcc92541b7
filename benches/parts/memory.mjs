/**
 * The part `memory`: resident bytes for each idle joined connection, all of a lobby's and a session's state included:
 * 10,000 straight to the node, 5,000 through the broker's tunnel, in lobbies of ten.
 */
import { setTimeout as sleep } from 'node:timers/promises';

import { loadtest, scenario } from '../load.mjs';
import { Peer, peers, residentBytes } from '../peer.mjs';

export async function memory(options) {
  const rows = ['| connections | node, bytes each | broker, bytes each |', '|---|---|---|'];
  for (const [road, clients] of [['direct', 10_000], ['broker', 5_000]]) {
    const [peer, settings] = [new Peer(options.bin), peers[road]];
    try {
      const port = await settings.start(peer);
      const [node, broker] = [residentBytes(peer.nodes[0]), residentBytes(peer.broker)];
      const text = scenario({ clients, members: 10, senders: 0, come: 10, seconds: 20, peer: settings });
      const running = loadtest(peer, port, text);
      // Behind the last join, and behind the allocator's own pause before it gives memory back.
      await sleep(25_000);
      const each = (child, before) => Math.round((residentBytes(child) - before) / clients);
      rows.push(`| ${clients} ${road} | ${each(peer.nodes[0], node)} | ${each(peer.broker, broker)} |`);
      options.say(rows.at(-1));
      await running;
    } finally {
      await peer.stop();
    }
  }
  return rows.join('\n');
}
