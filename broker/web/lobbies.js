/** The list of open lobbies, read again every few seconds while it can be seen, and the ways into one. */
import { byId, element, say } from '/element.js';
import { guestToken, readLobbies } from '/guest.js';
import { openCreate } from '/settings.js';

const REFRESH_MS = 3_000;
/** More are on further pages, which the player asks for. */
const PAGES_MAX = 20;
/** A larger capacity is no news to a player. */
const CAPACITY_TOLD_MAX = 100;
/** A shorter list needs no filter. */
const FILTER_FROM = 6;

/** @param {{connected: () => boolean, create: (id: string, settings: object) => void}} on */
export function showLobbies(on) {
  const list = byId('list');
  /** @type {Map<string, HTMLElement>} */
  const rows = new Map();
  let pages = 1;
  let timer;
  /** The id of the open lobby. @type {string | undefined} */
  let current;
  /** What its own events tell of it, which is newer than any list. @type {any} */
  let entered;
  /** @type {any[]} */
  let found = [];
  let stopped = false;

  async function refresh() {
    clearTimeout(timer);
    if (document.visibilityState === 'visible') {
      try {
        await read();
        say(byId('list-error'), '');
      } catch {
        // Without a connection at all, the line at the top says so.
        if (!stopped && on.connected()) say(byId('list-error'), 'The list cannot be read at the moment.');
      }
    }
    if (stopped) return;
    clearTimeout(timer);
    timer = setTimeout(refresh, REFRESH_MS);
  }

  async function read() {
    const lobbies = [];
    let cursor;
    for (let page = 0; page < pages; page += 1) {
      const response = await readLobbies(await guestToken('first'), cursor);
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const body = await response.json();
      lobbies.push(...body.lobbies);
      cursor = body.next;
      if (!cursor) break;
    }
    if (stopped) return;
    found = lobbies;
    render();
    byId('list-more').hidden = !cursor || pages >= PAGES_MAX;
  }

  /** Rows stay the same elements, so that the keyboard's focus stays where it is. */
  function render() {
    const all = found.map((lobby) => (lobby.lobby === entered?.lobby ? { ...lobby, ...entered } : lobby));
    if (entered && !all.some(({ lobby }) => lobby === entered.lobby)) all.unshift(entered);
    const wanted = byId('list-filter').value.trim().toLowerCase();
    const told = all.filter(({ lobby, name }) => `${name ?? ''} ${lobby}`.toLowerCase().includes(wanted));
    const here = new Set(told.map(({ lobby }) => lobby));
    for (const [id, row] of rows) {
      if (!here.has(id)) {
        row.remove();
        rows.delete(id);
      }
    }
    told.forEach((lobby, at) => {
      let row = rows.get(lobby.lobby);
      if (!row) {
        row = makeRow(lobby.lobby);
        rows.set(lobby.lobby, row);
      }
      fillRow(row, lobby);
      if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    });
    byId('list-empty').hidden = told.length > 0;
    say(byId('list-empty'), all.length > 0 ? 'No lobby has this name.' : 'No lobby is open yet. Create the first one.');
    byId('list-tools').hidden = all.length < FILTER_FROM && wanted === '';
    mark();
  }

  function makeRow(id) {
    const link = element('a', { href: `#/lobby/${encodeURIComponent(id)}` }, element('bdi', { class: 'name' }), element('span', { class: 'tags' }), element('span', { class: 'count' }));
    return element('li', { 'data-lobby': id }, link);
  }

  function fillRow(row, { lobby, name, members, capacity, ...more }) {
    const full = capacity > 0 && members >= capacity;
    say(row.querySelector('.name'), name || lobby);
    const places = capacity <= CAPACITY_TOLD_MAX ? `${members} of ${capacity}` : `${members}`;
    say(row.querySelector('.count'), full ? `${places} · full` : `${places} ${places === '1' ? 'player' : 'players'}`);
    row.classList.toggle('full', full);
    const tags = [more.locked && 'password', more.invite_only && 'by invite'].filter(Boolean);
    say(row.querySelector('.tags'), tags.join(' · '));
  }

  /** Into the best lobby with a free place, or else a new one. */
  async function quick() {
    const free = found.filter(({ members, capacity, locked, invite_only: closed, joinable }) => members < capacity && !locked && !closed && joinable !== false);
    const [best] = free.sort((a, b) => b.members - a.members);
    if (best) location.hash = `#/lobby/${best.lobby}`;
    else on.create(newId('quick game'), { name: 'Quick game', capacity: 4, reports: 'members' });
  }

  function mark() {
    for (const [id, row] of rows) {
      if (id === current) row.firstChild.setAttribute('aria-current', 'page');
      else row.firstChild.removeAttribute('aria-current');
    }
  }

  byId('create-open').onclick = () => openCreate((settings) => on.create(newId(settings.name), settings));
  byId('quick').onclick = () => void quick();
  byId('list-filter').oninput = render;
  byId('list-more').onclick = () => {
    pages += 1;
    void refresh();
  };
  const onVisible = () => document.visibilityState === 'visible' && void refresh();
  document.addEventListener('visibilitychange', onVisible);
  void refresh();

  return {
    refresh,
    /** Marks the lobby that the player is in. */
    setCurrent(id) {
      current = id;
      entered = undefined;
      mark();
    },
    /** Tells of the lobby that the player is in, or that it is in none any more. */
    tell(lobby) {
      if (stopped || (lobby && lobby.lobby !== current)) return;
      entered = lobby;
      render();
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', onVisible);
      list.replaceChildren();
    },
  };
}

/** An id that can be read in a link and that nobody has: the name's letters and 40 random bits. */
function newId(name) {
  const readable = name.normalize('NFKD').replace(/[^A-Za-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 40).toLowerCase();
  const random = [...crypto.getRandomValues(new Uint8Array(5))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
  return readable ? `${readable}-${random}` : random;
}
