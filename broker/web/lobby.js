/** The open lobby: its head and notices, and the log, the members, the composer and the arena in it. */
import { Arena } from '/arena.js';
import { readBlocks } from '/blocks.js';
import { Composer } from '/composer.js';
import { ask } from '/dialog.js';
import { byId, say } from '/element.js';
import { openInvite } from '/invite.js';
import { Log } from '/log.js';
import { drawMembers } from '/members.js';
import { mayRun } from '/moderation.js';
import { openSettings } from '/settings.js';
import { sentence } from '/words.js';

const TYPING_SHOW_MS = 5_000;
const TYPING_NAMES_MAX = 3;

export class LobbyView {
  /** @type {import('/client/index.js').Lobby | undefined} */
  #lobby;
  /** @type {Log | undefined} */
  #log;
  /** @type {Arena | undefined} */
  #arena;
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #typers = new Map();
  #unread = 0;
  #gone = false;
  #drawing = false;

  /**
   * @param {import('/client/index.js').Client} client
   * @param {string} id
   * @param {string | undefined} invite of the link that led here
   * @param {{entered: () => void, left: () => void, told: (lobby?: object) => void}} on
   */
  constructor(client, id, invite, on) {
    this.client = client;
    this.id = id;
    this.invite = invite;
    this.on = on;
    for (const list of ['log', 'unsent', 'members']) byId(list).replaceChildren();
    for (const hidden of ['older', 'to-newest', 'arena', 'lobby-settings']) byId(hidden).hidden = true;
    say(byId('lobby-count'), '');
    say(byId('lobby-name'), id);
    say(byId('lobby-state'), '');
    this.#drawTyping();
    this.composer = new Composer(client, id, { invite: () => this.#invite(), leave: () => this.#leave() });
    this.#enable(false);
    byId('lobby-leave').onclick = () => this.#leave();
    byId('lobby-invite').onclick = () => this.#invite();
    byId('lobby-settings').onclick = () => this.#settings();
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

  /** Joins, and creates when there are settings. @param {object} [settings] @param {{password?: string, role?: string}} [more] */
  async enter(settings, more = {}) {
    this.#notice(null);
    byId('lobby-view').classList.add('joining');
    const options = { ...(settings ? { create: settings } : {}), ...(this.invite ? { invite: this.invite } : {}), ...more };
    if (settings?.password) options.password = settings.password;
    try {
      const lobby = await this.client.join(this.id, options);
      if (this.#gone) return void lobby.leave().catch(() => {});
      this.#open(lobby);
    } catch (error) {
      if (!this.#gone) this.#offer(error, 'Try again', () => this.enter(settings, more));
    } finally {
      if (!this.#gone) byId('lobby-view').classList.remove('joining');
    }
  }

  /** The player went elsewhere. */
  close() {
    this.#gone = true;
    this.composer.close();
    this.#arena?.close();
    this.#log?.close();
    this.#forgetTypers();
    this.#lobby?.leave().catch(() => {}); // not a member any more, or a grace time will do it
  }

  /** The page is looked at. */
  seen() {
    this.#unread = 0;
    document.title = this.title;
  }

  /** Tells of what happened to the player alone. */
  tell(text) {
    this.#log?.note(text);
  }

  /** @param {import('/client/index.js').Lobby} lobby */
  #open(lobby) {
    this.#lobby = lobby;
    this.#log?.close();
    this.#log = new Log(lobby, () => this.client.user, (seq, text) => this.composer.edit(seq, text));
    this.#arena?.close();
    this.#arena = new Arena(lobby, this.client.user, (user) => this.#log.nameOf(user));
    lobby.on('*', (name, event) => this.#lobby === lobby && this.#take(name, event));
    this.#drawHead();
    this.#enable(true);
    this.composer.open(lobby, this.#log);
    void readBlocks(this.client);
    this.on.entered();
  }

  #take(name, event) {
    if (this.#gone) return;
    this.#arena.take(name, event);
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
      case 'read':
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
    byId('lobby-settings').hidden = !mayRun(this.#lobby, this.client.user) || this.#lobby.status === 'ended';
    document.title = this.title;
    // Many may join at once: draw once a frame.
    if (!this.#drawing) requestAnimationFrame(() => this.#drawMembers());
    this.#drawing = true;
  }

  #drawMembers() {
    this.#drawing = false;
    if (this.#gone) return;
    const lobby = this.#lobby;
    drawMembers(lobby, this.client.user, (text) => this.tell(text));
    const { settings, game } = lobby;
    const parts = [game === null ? null : 'game under way', settings.visibility && settings.visibility !== 'public' ? settings.visibility : null];
    say(byId('lobby-state'), parts.filter(Boolean).join(' · '));
    if (lobby.status !== 'ended') this.on.told({ lobby: this.id, name: settings.name, members: lobby.membersTotal, capacity: settings.capacity });
  }

  #enable(enabled) {
    byId('lobby-body').classList.toggle('off', !enabled);
    byId('lobby-invite').disabled = !enabled;
    this.composer.enable(enabled);
  }

  /** Tells why the player is not in, with what can be done about it. */
  #offer(error, label, action) {
    if (error.code === 'not_found') this.#notice(sentence(error), 'Create it', () => this.enter({}));
    else if (error.code === 'wrong_password') this.#notice('This lobby has a password.', 'Enter it', () => this.#askPassword());
    else if (error.code === 'lobby_full') this.#notice(sentence(error), 'Watch', () => this.enter(undefined, { role: 'spectator' }));
    else this.#notice(sentence(error), label, action);
  }

  #askPassword() {
    ask({ title: 'Password', action: 'Enter', fields: [{ name: 'password', label: 'The password of this lobby', type: 'password', required: true }] }, ({ password }) => void this.enter(undefined, { password }));
  }

  #notice(text, label, action) {
    byId('lobby-notice').hidden = text === null;
    say(byId('lobby-notice-text'), text ?? '');
    const button = byId('lobby-notice-action');
    button.hidden = !label;
    say(button, label ?? '');
    button.onclick = action ?? null;
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
    this.composer.forget();
    this.on.left();
  }

  #invite() {
    if (this.#lobby) openInvite(this.#lobby);
  }

  #settings() {
    openSettings(this.#lobby);
  }
}
