/** Achievements: told as they are awarded, and kept in a list for this visit. */
import { byId, element, say } from '/element.js';

const KNOWN = {
  veteran: ['Veteran', 'More than 1000 games finished'],
  bruiser: ['Bruiser', 'More than 500 damage in one game'],
};
const SHOWN_MS = 12_000;
const KEY = 'mlms.awards';

/** @param {import('/client/index.js').Client} client */
export function showAwards(client) {
  let awards = [];
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY));
    if (Array.isArray(kept)) awards = kept.filter((award) => typeof award === 'string');
  } catch {
    // begin anew
  }
  draw(awards);
  const off = client.on('achievement', ({ user, achievement }) => {
    if (user !== client.user || typeof achievement !== 'string') return;
    if (!awards.includes(achievement)) awards.push(achievement);
    sessionStorage.setItem(KEY, JSON.stringify(awards));
    draw(awards);
    announce(achievement);
  });
  return () => {
    off();
    sessionStorage.removeItem(KEY);
    byId('toasts').replaceChildren();
    draw([]);
  };
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
