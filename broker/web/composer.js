/** Where the player writes: messages, changes of messages, commands, and that somebody is typing. */
import { makeNonce } from '/client/index.js';

import { completionOf, hintFor, runCommand } from '/commands.js';
import { byId, say } from '/element.js';
import { sentence } from '/words.js';

const TYPING_SEND_MS = 3_000;
const HEIGHT_MAX = 160;

/** What the player is writing, by lobby, over a change of lobby and back. @type {Map<string, string>} */
const drafts = new Map();

export class Composer {
  #typedAt = 0;
  /** The message that is being changed. @type {{seq: number, draft: string} | null} */
  #editing = null;
  /** @type {import('/client/index.js').Lobby | undefined} */
  #lobby;
  /** @type {import('/log.js').Log | undefined} */
  #log;

  /**
   * @param {import('/client/index.js').Client} client
   * @param {string} id of the lobby
   * @param {{invite: () => void, leave: () => void}} on
   */
  constructor(client, id, on) {
    this.client = client;
    this.id = id;
    this.on = on;
    this.field = byId('text');
    this.field.value = drafts.get(id) ?? '';
    this.#size();
    this.#say('');
    this.stopEditing(false);
    this.enable(false);
    this.field.oninput = () => this.#typed();
    this.field.onkeydown = (event) => this.#key(event);
    byId('composer').onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    byId('editing-cancel').onclick = () => this.stopEditing();
  }

  /** @param {import('/client/index.js').Lobby} lobby @param {import('/log.js').Log} log */
  open(lobby, log) {
    this.#lobby = lobby;
    this.#log = log;
    this.enable(true);
    if (matchMedia('(pointer: fine)').matches) this.field.focus();
    else byId('lobby-title').focus();
  }

  enable(enabled) {
    for (const control of byId('composer').elements) control.disabled = !enabled;
  }

  /** Keeps what was written for when the player comes back. */
  close() {
    drafts.set(this.id, this.#editing?.draft ?? this.field.value);
  }

  forget() {
    this.#editing = null;
    drafts.delete(this.id);
    this.field.value = '';
  }

  /** Takes up an own message to change it. */
  edit(seq, text) {
    this.#editing = { seq, draft: this.#editing?.draft ?? this.field.value };
    byId('editing').hidden = false;
    this.#write(text);
    this.field.focus();
  }

  stopEditing(restore = true) {
    byId('editing').hidden = true;
    if (!this.#editing) return;
    const { draft } = this.#editing;
    this.#editing = null;
    if (restore) this.#write(draft);
    this.field.focus();
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey) this.#submit();
    else if (event.key === 'Escape' && this.#editing) this.stopEditing();
    else if (event.key === 'Tab' && !event.shiftKey && completionOf(this.field.value)) this.#write(completionOf(this.field.value));
    else if (event.key === 'ArrowUp' && this.field.value === '') {
      const last = this.#log?.lastOwn();
      if (!last) return;
      this.edit(last.seq, last.text);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  #typed() {
    this.#size();
    this.#say('');
    say(byId('command-hint'), hintFor(this.field.value));
    const now = Date.now();
    const silent = this.field.value === '' || this.field.value.startsWith('/') || this.#editing;
    if (!this.#lobby || silent || now - this.#typedAt < TYPING_SEND_MS) return;
    this.#typedAt = now;
    this.#lobby.typing().catch(() => {}); // worth nothing later
  }

  #write(text) {
    this.field.value = text;
    say(byId('command-hint'), hintFor(text));
    this.#size();
  }

  #size() {
    this.field.style.height = 'auto';
    this.field.style.height = `${Math.min(this.field.scrollHeight, HEIGHT_MAX)}px`;
  }

  #say(text) {
    say(byId('composer-error'), text);
  }

  #submit() {
    const text = this.field.value.trim();
    if (!text || !this.#log) return;
    this.#say('');
    if (text.startsWith('/') && !this.#editing) return void this.#command(text);
    const max = this.client.welcome?.limits?.chat_bytes_max ?? 4096;
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > max) return this.#say(`This message is too long by ${bytes - max} bytes.`);
    this.#typedAt = 0;
    if (this.#editing) return void this.#change(this.#editing.seq, text);
    this.#write('');
    this.#send(text);
    this.field.focus();
  }

  #send(text) {
    void this.#log.send(text, makeNonce(), (again) => this.#send(again));
  }

  async #change(seq, text) {
    try {
      await this.#lobby.command('edit', { seq, body: text });
      if (this.#editing?.seq === seq) this.stopEditing();
    } catch (error) {
      this.#say(`Not changed. ${sentence(error)}`);
    }
  }

  async #command(text) {
    const log = this.#log;
    const place = {
      lobby: this.#lobby,
      names: (user) => log.nameOf(user),
      knownUsers: () => log.knownUsers(),
      ...this.on,
    };
    this.#write('');
    try {
      const answer = await runCommand(place, text);
      if (answer) log.note(answer);
    } catch (error) {
      log.note(error.message, 'bad');
      if (this.field.value === '') this.#write(text);
    }
  }
}
