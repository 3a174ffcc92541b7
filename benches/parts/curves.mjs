/**
 * The part `curves`: what a delivery costs as one lobby grows, and as there are more lobbies. Cost that grows with
 * deliveries only is a flat line, or a falling one. Draws docs/plots/members.svg and lobbies.svg.
 */
import { measure, median } from '../load.mjs';
import { plot } from '../plot.mjs';

const sides = ['floor', 'direct'];

async function curve(options, points, file, axis) {
  const series = Object.fromEntries(sides.map((side) => [side, []]));
  const rows = [`| ${axis} | floor, CPU µs a delivery | direct | × floor |`, '|---|---|---|---|'];
  for (const [x, shape] of points) {
    const costs = Object.fromEntries(sides.map((side) => [side, []]));
    for (let round = 0; round < options.rounds; round++) {
      for (const side of round % 2 ? sides.toReversed() : sides) {
        costs[side].push((await measure(options.bin, side, shape, options.seconds)).cpu);
      }
    }
    const ratio = median(costs.direct.map((cpu, round) => cpu / costs.floor[round]));
    for (const side of sides) series[side].push([x, median(costs[side])]);
    const [floor, direct] = sides.map((side) => series[side].at(-1)[1]);
    rows.push(`| ${x} | ${floor.toFixed(2)} | ${direct.toFixed(2)} | ${ratio.toFixed(2)} |`);
    options.say(rows.at(-1));
  }
  options.draw(file, plot({ x: axis, y: 'CPU µs a delivery', series }));
  return rows.join('\n');
}

export async function curves(options) {
  const members = [10, 100, 1_000, 5_000, 10_000];
  const lobbies = [1, 10, 100, 1_000, 5_000];
  const ofMembers = members.map((count) => [count, { clients: count, members: count, senders: 1, underWay: 1 }]);
  const ofLobbies = lobbies.map((count) => [count, { clients: 2 * count, members: 2, senders: 2, underWay: 1 }]);
  const first = await curve(options, ofMembers, 'members.svg', 'members of one lobby');
  const second = await curve(options, ofLobbies, 'lobbies.svg', 'lobbies of two, both send');
  return `${first}\n\n![CPU time a delivery as one lobby grows](plots/members.svg)\n\n${second}\n\n![CPU time a delivery as there are more lobbies](plots/lobbies.svg)`;
}
