/** One message: who, when, what, how it was changed, and what others think of it. */
import { avatar, element, say } from '/element.js';
import { time } from '/words.js';

const DELETED = 'This message was deleted.';
const PRIVATE = 'For you or a few only, and not kept: it is gone with this page.';
/** Different reactions shown at one message. */
const REACTIONS_MAX = 12;

/**
 * @param {{from: string | null, at: number, body: any, seq?: number}} message
 * @param {{name: string, own: boolean, passing?: boolean, note?: Node, onMore?: (button: HTMLElement) => void}} how passing:
 *   it is in nobody's history
 */
export function messageRow({ from, at, body, seq }, { name, own, passing, note, onMore }) {
  const row = element(
    'div',
    { class: own ? 'row own' : 'row' },
    own ? null : avatar(from ?? 'system', name),
    element(
      'div',
      { class: 'bubble' },
      element('p', { class: 'head' }, element('bdi', { class: 'from' }, name), ' ', element('time', { datetime: new Date(at).toISOString() }, time(at)), passing ? element('span', { class: 'private', title: PRIVATE }, ' · private') : null, element('span', { class: 'edited' })),
      element('p', { class: 'body', dir: 'auto' }),
      note ? element('p', { class: 'foot' }, note) : null,
    ),
    onMore ? moreButton(name, onMore) : null,
  );
  row.classList.toggle('passing', passing === true);
  row.dataset.from = from ?? '';
  row.dataset.at = String(at);
  if (seq !== undefined) row.dataset.seq = String(seq);
  setBody(row, body);
  return row;
}

/** Messages are many: only one of their buttons is a stop of the tabulator, the arrows go to the others. */
function moreButton(name, onMore) {
  const button = element('button', { type: 'button', class: 'more', tabindex: '-1', 'aria-haspopup': 'menu', 'aria-expanded': 'false', 'aria-label': `What to do with the message of ${name}` }, '⋯');
  button.onclick = () => onMore(button);
  return button;
}

export function setBody(row, body) {
  const gone = body === null || body === undefined || body === ''; // a chat is never empty by itself
  row.classList.toggle('deleted', gone);
  say(row.querySelector('.body'), gone ? DELETED : typeof body === 'string' ? body : JSON.stringify(body));
}

export function markEdited(row) {
  say(row.querySelector('.edited'), ' · edited');
}

/**
 * @param {HTMLElement} row
 * @param {Map<string, Set<string>>} reactions users by emoji
 * @param {{me: string, nameOf: (user: string) => string, react: (emoji: string) => void}} how
 */
export function drawReactions(row, reactions, { me, nameOf, react }) {
  let list = row.querySelector('.reactions');
  if (!list) {
    list = element('ul', { class: 'reactions', 'aria-label': 'Reactions' });
    row.querySelector('.bubble').append(list);
  }
  const shown = [...reactions].filter(([, users]) => users.size > 0).slice(0, REACTIONS_MAX);
  list.hidden = shown.length === 0;
  list.replaceChildren(...shown.map(([emoji, users]) => {
    const names = [...users].slice(0, 10).map((user) => (user === me ? 'you' : nameOf(user))).join(', ');
    const button = element('button', { type: 'button', 'aria-pressed': String(users.has(me)), 'aria-label': `${emoji} ${users.size}: ${names}`, title: names }, element('bdi', {}, emoji), ` ${users.size}`);
    button.onclick = () => react(emoji);
    return element('li', {}, button);
  }));
}
