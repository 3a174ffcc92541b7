/** Where pets battle: shows what `battle.js` says of the lobby's events, and sends what the player decides. */
import { HEALTH, MOVES, PETS, PLAYERS_MAX, PLAYERS_MIN, Battle, petsOf } from '/battle.js';
import { byId, element, say } from '/element.js';
import { petFace } from '/pets.js';
import { sentence } from '/words.js';

/** Pages of history in which the beginning of a game under way is looked for. */
const PAGES_MAX = 20;
/** What the lobby retains of a battle: who fights. Whoever comes later folds what followed. */
const KEY = 'battle';
/** Lines of the battle that are told. */
const LINES_MAX = 4;
/** Players shown while no battle is under way. */
const CARDS_MAX = 8;
/** How long the host waits for the last damage to be reported. */
const FINISH_MS = 4_000;

export class Arena {
  /** @type {Battle | null} */
  #battle = null;
  /** Events that come while the beginning is read. @type {any[] | null} */
  #held = null;
  #reporting = false;
  #finishing = false;
  #moving = false;
  #closed = false;
  #drawing = false;
  #petsChoosable = true;
  /** @type {string[]} */
  #lines = [];
  #finishTimer;

  /**
   * @param {import('/client/index.js').Lobby} lobby
   * @param {string} me
   * @param {(user: string) => string} nameOf
   */
  constructor(lobby, me, nameOf) {
    this.lobby = lobby;
    this.me = me;
    this.nameOf = nameOf;
    byId('arena-fold').onclick = () => this.#fold();
    byId('arena-lines').replaceChildren();
    say(byId('arena-error'), '');
    this.#fold(true);
    void this.#load();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#finishTimer);
    byId('arena').hidden = true;
  }

  /** What the lobby emits. */
  take(name, event) {
    if (this.#closed) return;
    if (name === 'snapshot') return void this.#load();
    if (event?.seq !== undefined && event.ev !== undefined && event.ev !== 'caught_up' && event.ev !== 'saved') {
      if (this.#held) this.#held.push(event);
      else this.#apply(event, true);
    }
    this.#draw();
  }

  /** Finds the beginning of the game under way, if there is one, and follows it from there. */
  async #load() {
    this.#battle = null;
    this.#lines = [];
    const { game } = this.lobby;
    if (game !== null) {
      const held = (this.#held = []);
      const events = await this.#readGame(game).catch(() => []);
      if (this.#held !== held) return; // begun anew meanwhile
      this.#held = null;
      let last = 0;
      for (const event of [...events, ...held]) {
        if (event.seq <= last) continue;
        last = event.seq;
        this.#apply(event, false);
      }
    }
    this.#act();
    this.#draw();
  }

  /** All of the game under way: from what the lobby retains of it, or from wherever the history begins. */
  async #readGame(game) {
    const deal = this.lobby.retained.get(KEY);
    // Only the host deals; what anybody else left there is nothing to begin from.
    if (deal?.body?.battle !== game || deal.from !== this.lobby.host) return this.#readSince(game);
    const all = [{ ev: 'game_started', lobby: this.lobby.id, game, by: deal.from, seq: deal.seq - 1 }, { ...deal, ev: 'message' }];
    for (let page = 0; page < PAGES_MAX; page += 1) {
      const { events, more } = await this.lobby.history({ after: all.at(-1).seq, limit: 200 });
      all.push(...events);
      if (!more) break;
    }
    return all;
  }

  async #readSince(game) {
    let all = [];
    let before = this.lobby.seq + 1;
    for (let page = 0; page < PAGES_MAX; page += 1) {
      const { events, more } = await this.lobby.history({ before, limit: 200 });
      all = [...events, ...all];
      if (!more || events.some((event) => event.ev === 'game_started' && event.game === game)) break;
      before = events[0].seq;
    }
    return all;
  }

  #apply(event, live) {
    if (event.ev === 'game_started') {
      this.#battle = new Battle(event);
      this.#lines = [];
      this.#finishing = false;
      say(byId('arena-error'), '');
      if (live) this.#fold(true);
    }
    const told = this.#battle?.take(event);
    if (told) this.#tell(told);
    if (live) this.#act();
  }

  /** What this player's page owes the battle: the host deals and finishes, everybody reports their damage. */
  #act() {
    const battle = this.#battle;
    if (!battle || this.#held || this.lobby.status === 'ended') return;
    const host = this.lobby.host === this.me;
    if (battle.phase === 'dealing' && host && battle.host === this.me) this.#deal();
    if (battle.phase === 'playing' || battle.phase === 'decided') this.#report();
    if (battle.phase === 'decided' && host && !this.#finishing) {
      const owed = battle.fighters.some(({ user }) => battle.owed(user) > 0);
      clearTimeout(this.#finishTimer);
      if (!owed || !this.#takesReports()) this.#finish();
      else this.#finishTimer = setTimeout(() => this.#finish(), FINISH_MS);
    }
  }

  #deal() {
    const ready = this.#readyPlayers;
    const members = ready.length >= PLAYERS_MIN ? ready : this.#players.slice(0, PLAYERS_MAX);
    const pets = petsOf(this.#players);
    const players = members.map(({ user }) => ({ user, pet: pets.get(user) }));
    if (players.length < PLAYERS_MIN) return;
    this.#send({ players }, { nonce: `deal-${this.#battle.game}`, key: KEY, retain: true });
  }

  #report() {
    const battle = this.#battle;
    const owed = battle.owed(this.me);
    if (this.#reporting || owed <= 0 || !this.#takesReports()) return;
    this.#reporting = true;
    const reported = battle.fighter(this.me).reported;
    // The nonce follows from what was reported so far: told twice, as after a reload, it counts once.
    const nonce = `damage-${battle.game}-${reported}`;
    const fields = { stat: 'damage', amount: owed, user: this.me, nonce };
    this.lobby.command('report', fields).catch(() => {}).finally(() => {
      this.#reporting = false;
      if (battle === this.#battle && battle.owed(this.me) > 0 && battle.fighter(this.me).reported > reported) this.#act();
    });
  }

  #finish() {
    const battle = this.#battle;
    if (this.#finishing || battle?.phase !== 'decided' || this.lobby.status === 'ended') return;
    this.#finishing = true;
    this.lobby.command('finish', { results: battle.results() }).catch((error) => {
      if (battle !== this.#battle || battle.phase === 'finished') return;
      this.#finishing = false;
      say(byId('arena-error'), sentence(error));
    });
  }

  #takesReports() {
    const { reports } = this.lobby.settings;
    return reports === 'members' || (reports === 'host' && this.lobby.host === this.me);
  }

  get #players() {
    return [...this.lobby.members.values()].filter(({ role }) => role !== 'spectator');
  }

  get #readyPlayers() {
    return this.#players.filter(({ ready }) => ready).slice(0, PLAYERS_MAX);
  }

  #send(body, more = {}) {
    const battle = this.#battle;
    this.lobby.send('game', { battle: battle.game, ...body }, { class: 'durable', ...more }).then(
      () => this.#settle(),
      (error) => {
        this.#settle();
        say(byId('arena-error'), sentence(error));
      },
    );
  }

  #settle() {
    this.#moving = false;
    this.#draw();
  }

  #command(op, fields) {
    say(byId('arena-error'), '');
    return this.lobby.command(op, fields).catch((error) => {
      if (op === 'update' && error.code === 'unknown_op') this.#petsChoosable = false;
      say(byId('arena-error'), sentence(error));
      this.#draw();
    });
  }

  #move(move, target) {
    this.#moving = true;
    say(byId('arena-error'), '');
    this.#send({ turn: this.#battle.turn, move, ...(target ? { target } : {}) });
    this.#draw();
  }

  #changePet() {
    const mine = petsOf(this.#players).get(this.me);
    const pet = PETS[(PETS.indexOf(mine) + 1) % PETS.length];
    void this.#command('update', { attributes: { pet } });
  }

  #tell({ what, user, target, amount, move, out, winner }) {
    const name = (who) => (who === this.me ? 'You' : this.nameOf(who));
    const whom = (who) => (who === this.me ? 'you' : this.nameOf(who));
    const line = {
      dealt: () => 'The battle begins!',
      skipped: () => `${name(user)} had to wait.`,
      healed: () => `${name(user)} rested: +${amount}.`,
      hit: () => `${name(user)} ${move === 'bite' ? 'bit' : amount < 40 ? 'stumbled over' : 'pounced on'} ${whom(target)}: −${amount}.${out ? ` ${name(target)} ${target === this.me ? 'are' : 'is'} out!` : ''}`,
      fled: () => `${name(user)} ran away.`,
      finished: () => (winner ? `${name(winner)} won!` : 'The battle ended.'),
    }[what];
    this.#lines.push(line());
    this.#lines.splice(0, this.#lines.length - LINES_MAX);
  }

  #fold(open = byId('arena-fold').getAttribute('aria-expanded') !== 'true') {
    byId('arena-fold').setAttribute('aria-expanded', String(open));
    say(byId('arena-fold'), open ? 'Hide' : 'Show');
    byId('arena-body').hidden = !open;
  }

  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      if (!this.#closed) this.#show();
    });
  }

  #show() {
    const { lobby } = this;
    const battle = this.#battle;
    const foreign = lobby.game !== null && (!battle || battle.phase === 'dealing');
    byId('arena').hidden = lobby.status === 'ended';
    byId('arena').dataset.phase = battle?.phase ?? 'none';
    const under = battle && (battle.phase === 'playing' || battle.phase === 'decided');
    const shown = under ? battle.fighters : battle?.phase === 'finished' && this.#readyPlayers.length === 0 ? battle.fighters : null;
    byId('arena-pets').replaceChildren(...(shown ? shown.map((fighter) => this.#fighterCard(fighter)) : this.#playerCards()));
    say(byId('arena-status'), this.#status(foreign));
    this.#showLines();
    this.#showActions(under, foreign);
  }

  #showLines() {
    const list = byId('arena-lines');
    // Only what is new is added, so that a screen reader reads each line once.
    const shown = [...list.children].map(({ textContent }) => textContent);
    let same = Math.min(shown.length, this.#lines.length);
    while (same > 0 && shown.slice(-same).join('\n') !== this.#lines.slice(0, same).join('\n')) same -= 1;
    while (list.children.length > same) list.firstChild.remove();
    for (const line of this.#lines.slice(same)) list.append(element('li', {}, line));
  }

  #status(foreign) {
    const battle = this.#battle;
    if (battle?.phase === 'playing') {
      const { user } = battle.current;
      return user === this.me ? 'It is your turn!' : `${this.nameOf(user)} is on turn.`;
    }
    if (battle?.phase === 'decided' || (battle?.phase === 'finished' && this.#readyPlayers.length === 0)) {
      const { winner } = battle;
      if (!winner) return 'The battle ended.';
      return winner.user === this.me ? `You won, with ${winner.dealt} damage!` : `${this.nameOf(winner.user)} won, with ${winner.dealt} damage.`;
    }
    if (foreign) return 'A game is under way.';
    const ready = this.#readyPlayers.length;
    if (this.#players.length < PLAYERS_MIN) return 'A battle takes two to four. Invite somebody!';
    return `${ready} of ${Math.min(this.#players.length, PLAYERS_MAX)} ready.`;
  }

  #fighterCard({ user, pet, health, out, dealt }) {
    const on = this.#battle.current?.user === user;
    const won = this.#battle.winner?.user === user;
    const name = this.nameOf(user);
    const meter = element('meter', { min: '0', max: String(HEALTH), low: String(HEALTH * 0.3), high: String(HEALTH * 0.6), optimum: String(HEALTH), value: String(health), 'aria-label': `Health of ${name}` });
    return element(
      'li',
      { class: `fighter${on ? ' on' : ''}${out ? ' out' : ''}${won ? ' won' : ''}`, 'data-user': user },
      petFace(pet),
      element('div', { class: 'fighter-text' }, element('bdi', { class: 'name' }, user === this.me ? `${name} (you)` : name), meter, element('span', { class: 'numbers' }, out ? `out · ${dealt} dealt` : `${health} left · ${dealt} dealt`)),
    );
  }

  #playerCards() {
    const pets = petsOf(this.#players);
    return this.#players.slice(0, CARDS_MAX).map((member) => this.#playerCard(member, pets.get(member.user)));
  }

  #playerCard({ user, ready, away }, pet) {
    const name = this.nameOf(user);
    const state = away ? 'away' : ready ? 'ready' : 'not ready';
    return element(
      'li',
      { class: `fighter${ready ? ' ready' : ''}`, 'data-user': user },
      petFace(pet),
      element('div', { class: 'fighter-text' }, element('bdi', { class: 'name' }, user === this.me ? `${name} (you)` : name), element('span', { class: 'numbers' }, state)),
    );
  }

  #showActions(under, foreign) {
    const battle = this.#battle;
    const me = this.lobby.members.get(this.me);
    const host = this.lobby.host === this.me;
    const buttons = [];
    const add = (key, label, act, more = {}) => buttons.push({ key, label, act, ...more });
    if (battle?.phase === 'playing') {
      const mine = battle.current.user === this.me;
      const targets = battle.fighters.filter(({ user, out }) => user !== this.me && !out);
      if (battle.fighter(this.me) && !battle.fighter(this.me).out) {
        for (const [move, { label, hint, heals }] of Object.entries(MOVES)) {
          const of = heals ? [{}] : targets;
          for (const { user } of of) {
            const whom = user && targets.length > 1 ? ` ${this.nameOf(user)}` : '';
            add(`${move} ${user ?? ''}`, `${label}${whom}`, () => this.#move(move, user), { hint, disabled: !mine || this.#moving, primary: mine });
          }
        }
      }
      if (host && !mine) add('skip', 'Skip this turn', () => this.#send({ turn: battle.turn, skip: true }));
    } else if (!under && !foreign) {
      if (me && me.role !== 'spectator') {
        add('ready', me.ready ? 'Not ready' : 'Ready', () => this.#command('ready', { ready: !me.ready }), { primary: !me.ready });
        if (this.#petsChoosable && !me.ready) add('pet', 'Another pet', () => this.#changePet());
      }
      const enough = this.#readyPlayers.length >= PLAYERS_MIN;
      if (host && this.#players.length >= PLAYERS_MIN) add('start', 'Start the battle', () => this.#command('start', {}), { primary: enough, disabled: !enough });
    }
    if (foreign && host && (battle?.host !== this.me || this.#players.length < PLAYERS_MIN)) add('finish', 'End the game', () => this.#command('finish', {}));
    this.#putButtons(buttons);
  }

  /** Buttons stay the same elements, so that the keyboard's focus stays where it is. */
  #putButtons(buttons) {
    const box = byId('arena-actions');
    const old = new Map([...box.children].map((button) => [button.dataset.key, button]));
    const next = buttons.map(({ key, label, act, hint, disabled = false, primary = false }) => {
      const button = old.get(key) ?? element('button', { type: 'button', 'data-key': key });
      say(button, label);
      button.className = primary ? 'primary' : 'quiet';
      // Not `disabled`: that would take the focus away between two turns.
      button.setAttribute('aria-disabled', String(disabled));
      button.onclick = disabled ? null : act;
      if (hint) button.title = hint;
      return button;
    });
    for (const button of old.values()) if (!next.includes(button)) button.remove();
    next.forEach((button, at) => box.children[at] !== button && box.insertBefore(button, box.children[at] ?? null));
  }
}
