/** Achievements: told as they are awarded, and shown beside the name. */
import { byId, element, say } from '/element.js';
import { guestToken } from '/guest.js';

const KNOWN = {
  veteran: ['Veteran', 'More than 1000 games finished'],
  bruiser: ['Bruiser', 'More than 500 damage in one game'],
};
const SHOWN_MS = 12_000;
/** Shown beside the name. */
const AWARDS_MAX = 12;

/** @param {import('/client/index.js').Client} client */
export function showAwards(client) {
  /** @type {string[]} */
  let awards = [];
  let ended = false;
  const add = (names) => ended || draw((awards = [...new Set([...awards, ...names])].slice(0, AWARDS_MAX)));
  draw(awards);
  const offs = [
    client.on('welcome', async () => add(await readAwards(client.user))),
    client.on('achievement', ({ user, achievement }) => {
      if (user !== client.user || typeof achievement !== 'string') return;
      if (!awards.includes(achievement)) announce(achievement);
      add([achievement]);
    }),
  ];
  return () => {
    ended = true;
    for (const off of offs) off();
    byId('toasts').replaceChildren();
    draw([]);
  };
}

/** What the player achieved before. A service that does not keep it says so, and then there is nothing to show. */
async function readAwards(user) {
  try {
    const response = await fetch(`/v1/players/${encodeURIComponent(user)}/achievements`, { headers: { authorization: `Bearer ${await guestToken('first')}` } });
    if (!response.ok) return [];
    const { achievements } = await response.json();
    return achievements.map(({ achievement }) => String(achievement));
  } catch {
    return [];
  }
}

const wordsOf = (achievement) => (Object.hasOwn(KNOWN, achievement) ? KNOWN[achievement] : [achievement, '']);

function draw(awards) {
  const list = byId('awards');
  list.hidden = awards.length === 0;
  list.replaceChildren(...awards.map((achievement) => {
    const [name, what] = wordsOf(achievement);
    return element('li', { class: 'award', title: what }, star(), element('bdi', {}, name));
  }));
}

function announce(achievement) {
  const [name, what] = wordsOf(achievement);
  const toast = element('div', { class: 'toast' }, star(), element('div', {}, element('p', { class: 'toast-title' }, 'Achievement: ', element('bdi', {}, name)), what ? element('p', {}, what) : null));
  const close = element('button', { type: 'button', class: 'more', 'aria-label': 'Close' }, '×');
  close.onclick = () => toast.remove();
  toast.append(close);
  byId('toasts').append(toast);
  setTimeout(() => toast.remove(), SHOWN_MS);
}

/** Also seen by who does not see the colour. */
function star() {
  const mark = element('span', { class: 'star', 'aria-hidden': 'true' });
  say(mark, '★');
  return mark;
}
