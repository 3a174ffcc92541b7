/** The open lobby: its head, notices, composer, typing, and the log and members in it. */
import { makeNonce } from '/client/index.js';

import { byId, say } from '/element.js';
import { Log } from '/log.js';
import { drawMembers } from '/members.js';
import { sentence } from '/words.js';

const TYPING_SEND_MS = 3_000;
const TYPING_SHOW_MS = 5_000;
const TYPING_NAMES_MAX = 3;

/** What the player is writing, by lobby, over a change of lobby and back. @type {Map<string, string>} */
const drafts = new Map();

export class LobbyView {
  /** @type {import('/client/index.js').Lobby | undefined} */
  #lobby;
  /** @type {Log | undefined} */
  #log;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #typers = new Map();
  #typedAt = 0;
  #unread = 0;
  #gone = false;
  #drawing = false;

  /**
   * @param {import('/client/index.js').Client} client
   * @param {string} id
   * @param {{entered: () => void, left: () => void, told: (lobby?: object) => void}} on
   */
  constructor(client, id, on) {
    this.client = client;
    this.id = id;
    this.on = on;
    byId('log').replaceChildren();
    byId('unsent').replaceChildren();
    byId('members').replaceChildren();
    byId('older').hidden = true;
    byId('to-newest').hidden = true;
    say(byId('lobby-count'), '');
    say(byId('lobby-name'), id);
    this.#drawTyping();
    this.#enable(false);
    const text = byId('text');
    text.value = drafts.get(id) ?? '';
    this.#size();
    text.oninput = () => this.#typed();
    text.onkeydown = (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    };
    byId('composer').onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    byId('lobby-leave').onclick = () => this.#leave();
    byId('lobby-link').onclick = () => this.#copyLink();
    byId('lobby-members').onclick = () => this.#toggleMembers();
    byId('lobby-view').onkeydown = (event) => {
      if (event.key === 'Escape') this.#toggleMembers(false);
    };
    this.#toggleMembers(false);
  }

  get title() {
    const name = this.#lobby?.settings.name || this.id;
    return this.#unread > 0 ? `(${this.#unread}) ${name}` : name;
  }

  /** Joins, and creates when there are settings. */
  async enter(settings) {
    this.#notice(null);
    byId('lobby-view').classList.add('joining');
    try {
      const lobby = await this.client.join(this.id, settings ? { create: settings } : {});
      if (this.#gone) return void lobby.leave().catch(() => {});
      this.#open(lobby);
    } catch (error) {
      if (this.#gone) return;
      this.#offer(error, 'Try again', () => this.enter(settings));
    } finally {
      if (!this.#gone) byId('lobby-view').classList.remove('joining');
    }
  }

  /** The player went elsewhere. */
  close() {
    this.#gone = true;
    drafts.set(this.id, byId('text').value);
    this.#forgetTypers();
    this.#lobby?.leave().catch(() => {}); // not a member any more, or a grace time will do it
  }

  /** The page is looked at. */
  seen() {
    this.#unread = 0;
    document.title = this.title;
  }

  /** @param {import('/client/index.js').Lobby} lobby */
  #open(lobby) {
    this.#lobby = lobby;
    this.#log = new Log(lobby, () => this.client.user);
    lobby.on('*', (name, event) => this.#take(name, event));
    this.#drawHead();
    this.#enable(true);
    this.on.entered();
    if (matchMedia('(pointer: fine)').matches) byId('text').focus();
    else byId('lobby-title').focus();
  }

  #take(name, event) {
    if (this.#gone) return;
    switch (name) {
      case 'snapshot':
        this.#log.restart();
        break;
      case 'typing':
        if (event.user !== this.client.user) this.#typing(event.user);
        return;
      case 'ended':
        this.#enable(false);
        this.on.told();
        this.#offer(event, 'Join again', () => this.enter());
        return;
      case 'message':
        this.#typing(event.from, false);
        if (this.#log.add(event) && document.hidden) this.#unread += 1;
        document.title = this.title;
        return;
      case 'status':
        this.#log.tellUnsent();
        if (event === 'interrupted') this.#forgetTypers();
        return;
      case 'caught_up':
      case 'lag':
      case 'gap':
      case 'resumed':
        return;
      default:
        this.#log.add(event);
    }
    this.#drawHead();
  }

  #drawHead() {
    say(byId('lobby-name'), this.#lobby.settings.name || this.id);
    document.title = this.title;
    // Many may join at once: draw once a frame.
    if (!this.#drawing) requestAnimationFrame(() => this.#drawMembers());
    this.#drawing = true;
  }

  #drawMembers() {
    this.#drawing = false;
    if (this.#gone) return;
    const lobby = this.#lobby;
    drawMembers(lobby, this.client.user);
    if (lobby.status !== 'ended') this.on.told({ lobby: this.id, name: lobby.settings.name, members: lobby.membersTotal, capacity: lobby.settings.capacity });
  }

  #enable(enabled) {
    byId('lobby-body').classList.toggle('off', !enabled);
    for (const control of byId('composer').elements) control.disabled = !enabled;
  }

  /** Tells why the player is not in, with what can be done about it. */
  #offer(error, label, action) {
    if (error.code === 'not_found') this.#notice(sentence(error), 'Create it', () => this.enter({}));
    else this.#notice(sentence(error), label, action);
  }

  #notice(text, label, action) {
    byId('lobby-notice').hidden = text === null;
    say(byId('lobby-notice-text'), text ?? '');
    const button = byId('lobby-notice-action');
    button.hidden = !label;
    say(button, label ?? '');
    button.onclick = action ?? null;
  }

  #typed() {
    this.#size();
    say(byId('composer-error'), '');
    const now = Date.now();
    if (!this.#lobby || byId('text').value === '' || now - this.#typedAt < TYPING_SEND_MS) return;
    this.#typedAt = now;
    this.#lobby.typing().catch(() => {}); // worth nothing later
  }

  #size() {
    const text = byId('text');
    text.style.height = 'auto';
    text.style.height = `${Math.min(text.scrollHeight, 160)}px`;
  }

  #submit() {
    const field = byId('text');
    const text = field.value.trim();
    if (!text || !this.#log) return;
    const max = this.client.welcome?.limits?.chat_bytes_max ?? 4096;
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > max) return say(byId('composer-error'), `This message is too long by ${bytes - max} bytes.`);
    field.value = '';
    this.#typedAt = 0;
    this.#size();
    this.#send(text);
    field.focus();
  }

  #send(text) {
    void this.#log.send(text, makeNonce(), (again) => this.#send(again));
  }

  #typing(user, on = true) {
    clearTimeout(this.#typers.get(user));
    this.#typers.delete(user);
    if (on) this.#typers.set(user, setTimeout(() => this.#typing(user, false), TYPING_SHOW_MS));
    this.#drawTyping();
  }

  /** Nobody is known to type while the connection is away. */
  #forgetTypers() {
    for (const timer of this.#typers.values()) clearTimeout(timer);
    this.#typers.clear();
    this.#drawTyping();
  }

  #drawTyping() {
    const names = [...this.#typers.keys()].map((user) => this.#log.nameOf(user));
    const shown = names.slice(0, TYPING_NAMES_MAX).join(', ');
    const words = names.length > TYPING_NAMES_MAX ? 'Several players are typing…' : `${shown} ${names.length > 1 ? 'are' : 'is'} typing…`;
    say(byId('typing'), names.length > 0 ? words : '');
  }

  #toggleMembers(shown = byId('lobby-members').getAttribute('aria-expanded') !== 'true') {
    byId('lobby-members').setAttribute('aria-expanded', String(shown));
    byId('members-panel').classList.toggle('shown', shown);
  }

  #leave() {
    drafts.delete(this.id);
    byId('text').value = '';
    this.on.left();
  }

  async #copyLink() {
    const label = byId('lobby-link-text');
    const link = new URL(`#/lobby/${this.id}`, location.href).href;
    try {
      await navigator.clipboard.writeText(link);
      say(label, 'Copied');
      byId('lobby-link').classList.add('done');
    } catch {
      // Not a secure page, or not allowed: the address bar has the same link.
      this.#notice(`Share this address: ${link}`, 'Close', () => this.#notice(null));
      return;
    }
    setTimeout(() => {
      say(label, 'Copy link');
      byId('lobby-link').classList.remove('done');
    }, 2_000);
  }
}
