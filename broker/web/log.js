/**
 * The chat of the open lobby: sequenced events in the order of seq, the player's own messages below them until the
 * service has them. Older ones are read when the player scrolls up.
 */
import { avatar, byId, element, say } from '/element.js';
import { sentence, stranger, time } from '/words.js';

/** Rows kept in the page; beyond it the oldest go, and can be read again. */
const ROWS_MAX = 1_000;
const PAGE = 50;
/** How near to the end counts as reading along. */
const NEAR_PX = 60;

const DELETED = 'This message was deleted.';

export class Log {
  /** @type {Map<number, HTMLElement>} */
  #rows = new Map();
  /** Own messages without their event: by nonce. @type {Map<string, {row: HTMLElement, seq?: number}>} */
  #unsent = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();
  #oldest = 1;
  #reading = false;

  /** @param {import('/client/index.js').Lobby} lobby @param {() => string} me */
  constructor(lobby, me) {
    this.lobby = lobby;
    this.me = me;
    this.scroll = byId('scroll');
    this.log = byId('log');
    this.unsent = byId('unsent');
    this.unsent.replaceChildren();
    byId('older').onclick = () => this.#readOlder();
    byId('to-newest').onclick = () => this.toEnd();
    this.scroll.onscroll = () => {
      if (this.#near()) byId('to-newest').hidden = true;
      if (this.scroll.scrollTop < 40) void this.#readOlder();
    };
    this.restart();
  }

  /** Draws from the lobby's snapshot. */
  restart() {
    const { lobby } = this;
    for (const member of lobby.members.values()) this.#learn(member.user, member.name);
    this.#rows.clear();
    this.#quietly(() => {
      this.log.replaceChildren();
      for (const event of lobby.messages) this.#place(event);
    });
    this.#oldest = lobby.messages[0]?.seq ?? lobby.seq + 1;
    for (const [nonce, { seq }] of this.#unsent) if (seq <= lobby.seq) this.#arrived(nonce);
    this.#offerOlder(this.#oldest > 1);
    this.toEnd();
    this.#fill();
  }

  /** A live event. @returns {boolean} whether it is a chat message */
  add(event) {
    this.#learn(event.user, event.name);
    if (event.ev === 'edited' || event.ev === 'deleted') return this.#change(event);
    const row = this.#makeRow(event);
    if (!row) return false;
    const near = this.#near();
    this.#put(event.seq, row, null);
    this.#arrived(event.nonce, event.seq);
    this.#trim();
    const own = event.from === this.me();
    if (near || own) this.toEnd();
    else if (event.ev === 'message') byId('to-newest').hidden = false;
    return event.ev === 'message' && !own;
  }

  /** Shows an own message as under way until its event comes; a refused one can be sent again. */
  async send(text, nonce, resend) {
    const note = element('span', { class: 'note' }, this.#underWay());
    const row = this.#bubble({ from: this.me(), at: Date.now(), body: text }, note);
    row.classList.add('pending');
    this.#unsent.set(nonce, { row });
    this.unsent.append(row);
    this.toEnd();
    try {
      const { seq } = await this.lobby.chat(text, { nonce });
      const entry = this.#unsent.get(nonce);
      if (!entry) return;
      entry.seq = seq;
      row.classList.remove('pending');
      note.remove();
      if (this.#rows.has(seq) || seq <= this.lobby.seq) this.#arrived(nonce);
    } catch (error) {
      if (!this.#unsent.has(nonce)) return;
      row.classList.replace('pending', 'failed');
      const drop = () => {
        this.#unsent.delete(nonce);
        row.remove();
      };
      const again = () => {
        drop();
        resend(text);
      };
      note.replaceChildren(
        element('span', { role: 'alert' }, `Not sent. ${sentence(error)} `),
        element('button', { type: 'button', class: 'quiet', onclick: again }, 'Send again'),
        element('button', { type: 'button', class: 'quiet', onclick: drop }, 'Discard'),
      );
      this.toEnd();
    }
  }

  /** Says of the messages under way whether they move or wait for the connection. */
  tellUnsent() {
    for (const note of this.unsent.querySelectorAll('.pending .note')) say(note, this.#underWay());
  }

  #underWay() {
    return this.lobby.status === 'interrupted' ? 'waits for the connection' : 'sending…';
  }

  /** The name to show for a user. */
  nameOf(user) {
    return this.lobby.members.get(user)?.name || this.#names.get(user) || stranger(user);
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
    byId('to-newest').hidden = true;
  }

  #near() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroll;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }

  async #readOlder() {
    if (this.#reading || this.#oldest <= 1 || this.lobby.status !== 'live') return;
    this.#reading = true;
    const before = this.#oldest;
    try {
      const { events, more } = await this.lobby.history({ before, limit: PAGE });
      if (before !== this.#oldest) return; // began anew meanwhile
      for (const event of events) this.#learn(event.user, event.name);
      const { scrollHeight, scrollTop } = this.scroll;
      const first = this.log.firstChild;
      this.#quietly(() => {
        for (const event of events) this.#place(event, first);
      });
      this.scroll.scrollTop = scrollTop + this.scroll.scrollHeight - scrollHeight;
      this.#oldest = events[0]?.seq ?? 1;
      this.#offerOlder(more);
      if (!more) this.#oldest = 1;
    } catch (error) {
      say(byId('older'), `${sentence(error)} Try again`);
    } finally {
      this.#reading = false;
    }
    this.#fill();
  }

  /** Reads on while there is no room to scroll in, because then the player cannot ask for more by scrolling. */
  #fill() {
    if (this.scroll.scrollHeight <= this.scroll.clientHeight) void this.#readOlder();
  }

  #offerOlder(more) {
    byId('older').hidden = !more;
    say(byId('older'), 'Older messages');
  }

  /** Changes the log without a screen reader reading all of it out. */
  #quietly(change) {
    this.log.setAttribute('aria-live', 'off');
    change();
    requestAnimationFrame(() => this.log.setAttribute('aria-live', 'polite'));
  }

  #place(event, before = null) {
    this.#learn(event.user, event.name);
    const row = this.#makeRow(event);
    if (row) this.#put(event.seq, row, before);
  }

  #put(seq, row, before) {
    if (seq !== undefined) {
      if (this.#rows.has(seq)) return;
      this.#rows.set(seq, row);
    }
    this.log.insertBefore(row, before);
    this.#group(row);
    if (row.nextElementSibling) this.#group(row.nextElementSibling);
  }

  /** Messages that follow one of the same sender need no name. */
  #group(row) {
    const before = row.previousElementSibling;
    const same = before?.dataset.from !== undefined && before.dataset.from === row.dataset.from;
    row.classList.toggle('same', same && Number(row.dataset.at) - Number(before.dataset.at) < 300_000);
  }

  #arrived(nonce, seq) {
    for (const [key, entry] of this.#unsent) {
      if (key !== nonce && (seq === undefined || entry.seq !== seq)) continue;
      entry.row.remove();
      this.#unsent.delete(key);
    }
  }

  /** A message that stands here was changed; an older one comes changed from the history. */
  #change({ ev, of, body }) {
    const text = this.#rows.get(of)?.querySelector('.body');
    if (text) say(text, ev === 'edited' ? textOf(body) : DELETED);
    return false;
  }

  #trim() {
    if (this.#rows.size <= ROWS_MAX || !this.#near()) return;
    const seqs = [...this.#rows.keys()].sort((a, b) => a - b).slice(0, 100);
    for (const seq of seqs) {
      this.#rows.get(seq).remove();
      this.#rows.delete(seq);
    }
    this.#oldest = Math.min(...this.#rows.keys());
    this.#offerOlder(true);
  }

  #learn(user, name) {
    if (typeof user !== 'string' || typeof name !== 'string' || this.#names.get(user) === name) return;
    this.#names.set(user, name);
    for (const label of this.log.querySelectorAll('.row')) {
      if (label.dataset.from === user) say(label.querySelector('.from'), name);
    }
  }

  #makeRow(event) {
    if (event.ev === 'message') return event.kind === 'chat' && event.seq !== undefined ? this.#bubble(event) : null;
    const words = this.#tell(event);
    return words && element('p', { class: 'row system' }, ...words);
  }

  #bubble({ from, at, body, seq }, note) {
    const system = from === null || from === undefined;
    const own = from === this.me();
    const name = system ? 'System' : this.nameOf(from);
    const row = element(
      'div',
      { class: own ? 'row own' : 'row' },
      own ? null : avatar(from ?? 'system', name),
      element(
        'div',
        { class: 'bubble' },
        element('p', { class: 'head' }, element('bdi', { class: 'from' }, name), ' ', element('time', { datetime: new Date(at).toISOString() }, time(at))),
        element('p', { class: 'body', dir: 'auto' }, textOf(body)),
        note ? element('p', { class: 'foot' }, note) : null,
      ),
    );
    row.dataset.from = from ?? '';
    row.dataset.at = String(at);
    if (seq !== undefined) row.dataset.seq = String(seq);
    return row;
  }

  /** An event in words, or null when there is nothing to tell. */
  #tell({ ev, user, by, reason }) {
    const who = (id) => element('bdi', {}, id === this.me() ? 'You' : this.nameOf(id));
    const because = reason ? `: ${reason}` : '';
    const were = user === this.me() ? 'were' : 'was';
    switch (ev) {
      case 'joined':
        return [who(user), ' joined'];
      case 'left':
        return [who(user), ' left'];
      case 'host_changed':
        return user ? [who(user), user === this.me() ? ' are now the host' : ' is now the host'] : null;
      case 'kicked':
        return [who(user), ` ${were} removed${because}`];
      case 'banned':
        return [who(user), ` ${were} banned${because}`];
      case 'closed':
        return by ? ['The lobby was closed by ', who(by)] : ['The lobby was closed'];
      default:
        return null;
    }
  }
}

/** A chat's body is a string; anything else is shown as it came. */
function textOf(body) {
  if (typeof body === 'string') return body;
  return body === null || body === undefined ? DELETED : JSON.stringify(body);
}
