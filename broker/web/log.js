/**
 * The chat of the open lobby: sequenced events in the order of seq, the player's own messages below them until the
 * service has them. Older ones are read when the player scrolls up.
 */
import { isBlocked } from '/blocks.js';
import { byId, element, say } from '/element.js';
import { openMenu } from '/menu.js';
import { drawReactions, markEdited, messageRow, setBody } from '/message.js';
import { actionsOn, askToReport, mayModerate } from '/moderation.js';
import { narrate } from '/narration.js';
import { sentence, stranger } from '/words.js';

/** Rows kept in the page; beyond it the oldest go, and can be read again. */
const ROWS_MAX = 1_000;
/** Messages shown that are in nobody's history. */
const PASSING_MAX = 200;
const PAGE = 50;
/** Reactions that are counted; beyond it new ones are not shown until the lobby is opened again. */
const REACTIONS_MAX = 20_000;
/** How often at most the service is told what was read. */
const READ_MS = 1_000;
/** How near to the end counts as reading along. */
const NEAR_PX = 60;

const EMOJI = [['👍', 'Thumbs up'], ['❤️', 'Heart'], ['😂', 'Laughing'], ['🎉', 'Party'], ['😮', 'Surprised'], ['😢', 'Sad']];

export class Log {
  /** @type {Map<number, HTMLElement>} */
  #rows = new Map();
  /** Own messages without their event: by nonce. @type {Map<string, {row: HTMLElement, seq?: number}>} */
  #unsent = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();
  /** Who reacted how, by seq of the message and emoji. @type {Map<number, Map<string, Set<string>>>} */
  #reactions = new Map();
  /** Reactions that were counted, by their own seq. @type {Set<number>} */
  #counted = new Set();
  #oldest = 1;
  #reading = false;
  #below = 0;
  #along = true;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #readTimer;
  #onBlocks = () => this.#hideBlocked();
  #onSeen = () => this.#readUp();
  /** @type {ResizeObserver} */
  #resized;

  /**
   * @param {import('/client/index.js').Lobby} lobby
   * @param {() => string} me
   * @param {(seq: number, text: string) => void} edit called when the player wants to change an own message
   */
  constructor(lobby, me, edit) {
    this.lobby = lobby;
    this.me = me;
    this.edit = edit;
    this.scroll = byId('scroll');
    this.log = byId('log');
    this.unsent = byId('unsent');
    this.unsent.replaceChildren();
    byId('older').onclick = () => this.#readOlder();
    byId('to-newest').onclick = () => this.toEnd();
    this.scroll.onscroll = () => {
      this.#along = this.#near();
      if (this.#along) {
        this.#tellBelow(0);
        this.#readUp();
      }
      if (this.scroll.scrollTop < 40) void this.#readOlder();
    };
    // Whoever reads along goes on doing so when the room for messages changes.
    this.#resized = new ResizeObserver(() => this.#along && this.toEnd());
    this.#resized.observe(this.scroll);
    this.log.onkeydown = (event) => this.#rove(event);
    document.addEventListener('blocks', this.#onBlocks);
    document.addEventListener('visibilitychange', this.#onSeen);
    this.restart();
  }

  /** Another log takes its place. */
  close() {
    this.#resized.disconnect();
    clearTimeout(this.#readTimer);
    document.removeEventListener('blocks', this.#onBlocks);
    document.removeEventListener('visibilitychange', this.#onSeen);
  }

  /** Draws from the lobby's snapshot. */
  restart() {
    const { lobby } = this;
    for (const member of lobby.members.values()) this.#learn(member.user, member.name);
    this.#rows.clear();
    this.#reactions.clear();
    this.#counted.clear();
    this.#quietly(() => {
      this.log.replaceChildren();
      for (const event of lobby.messages) this.#place(event);
    });
    this.#markNew(lobby.readSeq);
    this.#oldest = lobby.messages[0]?.seq ?? lobby.seq + 1;
    for (const [nonce, { seq }] of this.#unsent) if (seq <= lobby.seq) this.#arrived(nonce);
    this.#offerOlder(this.#oldest > 1);
    this.toEnd();
    this.#fill();
    void this.#readReactions();
  }

  /** Draws a line before the first message that the player has not read on any device. */
  #markNew(read) {
    const first = [...this.#rows].find(([seq, row]) => seq > read && row.dataset.from && row.dataset.from !== this.me());
    if (read > 0 && this.lobby.unread > 0 && first) first[1].before(element('p', { class: 'new-line', role: 'separator' }, 'New'));
  }

  /** Tells the service that what can be seen was read: at most once a second, and only where it is news. */
  #readUp() {
    if (this.#readTimer || document.hidden || !this.#near() || this.lobby.unread === 0) return;
    this.#readTimer = setTimeout(() => {
      this.#readTimer = undefined;
      if (document.hidden || this.lobby.status !== 'live' || this.lobby.unread === 0) return;
      this.lobby.read().catch(() => {}); // the next message tries again
    }, READ_MS);
  }

  /** Hides what is left of the words of those whom the player blocks. */
  #hideBlocked() {
    for (const row of this.log.querySelectorAll('.row[data-from]')) row.hidden = isBlocked(row.dataset.from);
  }

  /** A live event. @returns {boolean} whether it is a chat message */
  add(event) {
    this.#learn(event.user, event.name);
    if (this.#change(event)) return false;
    const row = this.#makeRow(event);
    if (!row) return false;
    const near = this.#near();
    this.#put(event.seq, row, null);
    this.#arrived(event.nonce, event.seq);
    this.#trim();
    const own = event.from === this.me();
    if (near || own) this.toEnd();
    else if (event.ev === 'message' && !row.hidden) this.#tellBelow(this.#below + 1);
    return event.ev === 'message' && !own && !row.hidden;
  }

  /** Shows an own message as under way until its event comes; a refused one can be sent again. */
  async send(text, nonce, resend) {
    const note = element('span', { class: 'note' }, this.#underWay());
    const row = messageRow({ from: this.me(), at: Date.now(), body: text }, { name: this.nameOf(this.me()), own: true, note });
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

  /** Everybody of whom the log or the lobby knows. @returns {string[]} */
  knownUsers() {
    return [...new Set([...this.lobby.members.keys(), ...this.#names.keys()])];
  }

  /** The newest own message that can be changed. */
  lastOwn() {
    const row = [...this.log.querySelectorAll('.row.own[data-seq]:not(.deleted)')].at(-1);
    return row && { seq: Number(row.dataset.seq), text: row.querySelector('.body').textContent };
  }

  /** An answer to the player alone. @param {'bad'} [kind] */
  note(text, kind) {
    this.log.append(element('p', { class: `row note ${kind ?? ''}` }, text));
    this.toEnd();
  }

  toEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
    this.#tellBelow(0);
    this.#readUp();
  }

  /** How many messages came below what can be seen. */
  #tellBelow(count) {
    this.#below = count;
    byId('to-newest').hidden = count === 0;
    if (count > 0) say(byId('to-newest'), count === 1 ? '1 new message ↓' : `${count} new messages ↓`);
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
    if (this.#change(event)) return;
    const row = this.#makeRow(event);
    if (row) this.#put(event.seq, row, before);
  }

  #put(seq, row, before) {
    if (seq !== undefined) {
      if (this.#rows.has(seq)) return;
      this.#rows.set(seq, row);
    }
    row.hidden = isBlocked(row.dataset.from);
    this.log.insertBefore(row, before);
    if (before === null) this.#stopAt(row.querySelector('.more'));
    if (seq !== undefined) this.#drawReactions(seq);
    this.#group(row);
    if (row.nextElementSibling) this.#group(row.nextElementSibling);
  }

  /** The newest message is where the tabulator stops, unless the player is at another one. */
  #stopAt(button) {
    const before = this.log.querySelector('.more[tabindex="0"]');
    if (!button || before === document.activeElement && before !== null) return;
    if (before) before.tabIndex = -1;
    button.tabIndex = 0;
  }

  /** Messages that follow one of the same sender need no name. */
  #group(row) {
    const before = row.previousElementSibling;
    const passes = row.classList.contains('passing') || before?.classList.contains('passing');
    const same = !passes && before?.dataset.from !== undefined && before.dataset.from === row.dataset.from;
    row.classList.toggle('same', same && Number(row.dataset.at) - Number(before.dataset.at) < 300_000);
  }

  #arrived(nonce, seq) {
    for (const [key, entry] of this.#unsent) {
      if (key !== nonce && (seq === undefined || entry.seq !== seq)) continue;
      entry.row.remove();
      this.#unsent.delete(key);
    }
  }

  /** What changes another message. One that is not here comes changed from the history. @returns {boolean} */
  #change(event) {
    const { ev, of, body } = event;
    const row = this.#rows.get(of);
    if (ev === 'edited' && row) {
      setBody(row, body);
      markEdited(row);
    } else if (ev === 'deleted' && row) {
      setBody(row, null);
      this.#reactions.delete(of);
      row.querySelector('.reactions')?.remove();
    } else if (ev === 'reacted') this.#react(event);
    return ev === 'edited' || ev === 'deleted' || ev === 'reacted';
  }

  /** The same reaction of the same user again takes it back. In which order they are read does not matter. */
  #react({ seq, of, user, emoji }) {
    if (typeof emoji !== 'string' || this.#counted.has(seq) || this.#counted.size >= REACTIONS_MAX) return;
    this.#counted.add(seq);
    const reactions = this.#reactions.get(of) ?? new Map();
    const users = reactions.get(emoji) ?? new Set();
    if (!users.delete(user)) users.add(user);
    this.#reactions.set(of, reactions.set(emoji, users));
    this.#drawReactions(of);
  }

  /** A snapshot has the newest messages, not what was thought of them. */
  async #readReactions() {
    const { seq } = this.lobby;
    const { events } = await this.lobby.history({ before: seq + 1, limit: 200 }).catch(() => ({ events: [] }));
    for (const event of events) {
      this.#learn(event.user, event.name);
      if (event.ev === 'reacted') this.#react(event);
      else if (event.ev === 'edited' && this.#rows.has(event.of)) markEdited(this.#rows.get(event.of));
    }
  }

  #drawReactions(seq) {
    const row = this.#rows.get(seq);
    const reactions = this.#reactions.get(seq);
    if (!row || !reactions || row.classList.contains('deleted')) return;
    const near = this.#near();
    drawReactions(row, reactions, { me: this.me(), nameOf: (user) => this.nameOf(user), react: (emoji) => this.#command('react', { seq, emoji }) });
    if (near) this.toEnd();
  }

  /** What the player may do with a message. */
  #openMenu(button, { seq, from }) {
    const me = this.me();
    const row = this.#rows.get(seq);
    const spectates = this.lobby.members.get(me)?.role === 'spectator';
    /** @type {import('/menu.js').Item[]} */
    const items = [];
    if (row && !row.classList.contains('deleted')) {
      if (!spectates) for (const [emoji, name] of EMOJI) items.push({ label: emoji, name, kind: 'emoji', act: () => this.#command('react', { seq, emoji }) });
      if (from === me) items.push({ label: 'Change', act: () => this.edit(seq, row.querySelector('.body').textContent) });
      if (from === me || mayModerate(this.lobby, me)) items.push({ label: 'Delete', kind: 'danger', act: () => this.#command('delete', { seq }) });
    }
    if (from !== null && from !== me) {
      const tell = (text) => this.note(text);
      if (row && !row.classList.contains('deleted')) items.push({ label: 'Report…', kind: 'danger', act: () => askToReport(this.lobby, seq, this.nameOf(from), tell) });
      items.push(...actionsOn(this.lobby, me, from, tell));
    }
    openMenu(button, 'Message', items);
  }

  #command(op, fields) {
    this.lobby.command(op, fields).catch((error) => this.note(sentence(error), 'bad'));
  }

  /** The arrows go from message to message. */
  #rove(event) {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step || !event.target.classList.contains('more')) return;
    const buttons = [...this.log.querySelectorAll('.more')];
    const next = buttons[buttons.indexOf(event.target) + step];
    event.preventDefault();
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  #trim() {
    const passing = this.log.querySelectorAll('.passing');
    for (let oldest = 0; oldest < passing.length - PASSING_MAX; oldest += 1) passing[oldest].remove();
    if (this.#rows.size <= ROWS_MAX || !this.#near()) return;
    const seqs = [...this.#rows.keys()].sort((a, b) => a - b).slice(0, 100);
    for (const seq of seqs) {
      this.#rows.get(seq).remove();
      this.#rows.delete(seq);
      this.#reactions.delete(seq);
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
    if (event.ev === 'message') return event.kind === 'chat' ? this.#messageRow(event) : null;
    const words = narrate(event, this.me(), (user) => this.nameOf(user));
    return words && element('p', { class: 'row system' }, ...words);
  }

  #messageRow(event) {
    const { from } = event;
    const name = from === null || from === undefined ? 'System' : this.nameOf(from);
    const [own, passing] = [from === this.me(), event.seq === undefined];
    const onMore = passing && (own || !from) ? undefined : (button) => this.#openMenu(button, event);
    return messageRow(event, { name, own, passing, onMore });
  }
}
