/**
 * The rules of the pet battle: what follows from a lobby's sequenced events, and nothing else. Every member folds the
 * same events in the same order and so sees the same battle; a message's seq is its throw of the dice, so nobody can
 * choose it. The lobby's arena shows it; it touches neither page nor network.
 *
 * What players send as durable messages of kind `game`, all with `battle`, the number of the game:
 * `{players: [{user, pet}]}` by the host, once; `{turn, move, target?}` by whose turn it is; `{turn, skip: true}` by the host.
 */
export const HEALTH = 600;
export const PLAYERS_MIN = 2;
export const PLAYERS_MAX = 4;
export const PETS = ['cat', 'dog', 'fox', 'bear', 'owl', 'frog'];

/** What a pet can do: `roll` gives damage (or with `heals` health) from a number in [0, 1). */
export const MOVES = {
  bite: { label: 'Bite', hint: '70 to 110 damage', roll: (r) => 70 + Math.floor(r * 41) },
  pounce: { label: 'Pounce', hint: '160 to 200 damage, or nearly nothing', roll: (r) => (r < 0.5 ? 10 + Math.floor(r * 20) : 160 + Math.floor((r - 0.5) * 82)) },
  rest: { label: 'Rest', hint: 'heals 80 to 120', heals: true, roll: (r) => 80 + Math.floor(r * 41) },
};

/** @typedef {{user: string, pet: string, health: number, out: boolean, dealt: number, reported: number}} Fighter */

export class Battle {
  /** `dealing`, `playing`, `decided` (the host has yet to finish it), `finished`. */
  phase = 'dealing';
  /** @type {Fighter[]} in the order of their turns */
  fighters = [];
  turn = 0;
  #at = 0;

  #seed;

  /** @param {{lobby: string, game: number, by?: string}} started the event that began it */
  constructor({ lobby, game, by }) {
    this.#seed = hashOf(`${lobby}/${game}`);
    this.game = game;
    this.host = by ?? null;
  }

  /** Whose turn it is. @returns {Fighter | undefined} */
  get current() {
    return this.phase === 'playing' ? this.fighters[this.#at] : undefined;
  }

  /** Who still stands when it is decided. @returns {Fighter | undefined} */
  get winner() {
    return this.phase === 'playing' || this.phase === 'dealing' ? undefined : this.fighters.find(({ out }) => !out);
  }

  fighter(user) {
    return this.fighters.find((fighter) => fighter.user === user);
  }

  /** Damage dealt that no `reported` event tells of yet. */
  owed(user) {
    const fighter = this.fighter(user);
    return fighter ? fighter.dealt - fighter.reported : 0;
  }

  /** What the host hands in at the end. */
  results() {
    return { winner: this.winner?.user ?? null, turns: this.turn - 1, damage: this.fighters.map(({ user, dealt }) => ({ user, dealt })) };
  }

  /**
   * Takes the next sequenced event of the lobby.
   * @returns {object | null} what there is to tell of it
   */
  take(event) {
    if (this.phase === 'finished') return null;
    switch (event.ev) {
      case 'host_changed':
        this.host = event.user ?? null;
        return null;
      case 'left':
      case 'kicked':
      case 'banned':
        return this.#flee(event.user);
      case 'reported': {
        const fighter = event.game === this.game && event.stat === 'damage' ? this.fighter(event.user) : undefined;
        if (fighter) fighter.reported += event.amount;
        return null;
      }
      case 'game_finished':
        this.phase = 'finished';
        return { what: 'finished', winner: this.winner?.user };
      case 'message':
        if (event.kind !== 'game' || event.body?.battle !== this.game) return null;
        return this.phase === 'dealing' ? this.#deal(event) : this.#move(event);
      default:
        return null;
    }
  }

  #deal({ from, body }) {
    if (from !== this.host || !Array.isArray(body.players)) return null;
    const players = body.players.slice(0, PLAYERS_MAX).filter((player) => typeof player?.user === 'string');
    if (new Set(players.map(({ user }) => user)).size !== players.length || players.length < PLAYERS_MIN) return null;
    this.fighters = players.map(({ user, pet }) => ({
      user,
      pet: PETS.includes(pet) ? pet : petOf(user),
      health: HEALTH,
      out: false,
      dealt: 0,
      reported: 0,
    }));
    this.phase = 'playing';
    this.turn = 1;
    return { what: 'dealt' };
  }

  #move({ from, body, seq }) {
    const fighter = this.current;
    if (!fighter || body.turn !== this.turn) return null;
    if (body.skip === true && from === this.host) {
      this.#next();
      return { what: 'skipped', user: fighter.user };
    }
    const move = Object.hasOwn(MOVES, body.move) ? MOVES[body.move] : undefined;
    if (from !== fighter.user || !move) return null;
    const amount = move.roll(dice(this.#seed, seq));
    if (move.heals) {
      const healed = Math.min(amount, HEALTH - fighter.health);
      fighter.health += healed;
      this.#next();
      return { what: 'healed', user: fighter.user, amount: healed };
    }
    const target = this.fighter(body.target);
    if (!target || target.out || target === fighter) return null;
    const hit = Math.min(amount, target.health);
    target.health -= hit;
    target.out = target.health === 0;
    fighter.dealt += hit;
    this.#next();
    return { what: 'hit', user: fighter.user, move: body.move, target: target.user, amount: hit, out: target.out };
  }

  #flee(user) {
    const fighter = this.fighter(user);
    if (!fighter || fighter.out || this.phase !== 'playing') return null;
    const mine = this.current === fighter;
    fighter.out = true;
    fighter.health = 0;
    if (mine) this.#next();
    else this.#decide();
    return { what: 'fled', user };
  }

  #next() {
    this.turn += 1;
    if (this.#decide()) return;
    do this.#at = (this.#at + 1) % this.fighters.length;
    while (this.fighters[this.#at].out);
  }

  #decide() {
    if (this.fighters.filter(({ out }) => !out).length > 1) return false;
    this.phase = 'decided';
    return true;
  }
}

/**
 * Everybody's pet: the chosen one, or else one that follows from the user, and that nobody before has. The order in
 * which a client knows the members does not matter: everybody sees the same.
 * @param {{user: string, attributes?: any}[]} members
 * @returns {Map<string, string>} by user
 */
export function petsOf(members) {
  const pets = new Map();
  for (const { user, attributes } of members) if (PETS.includes(attributes?.pet)) pets.set(user, attributes.pet);
  const taken = new Set(pets.values());
  for (const user of members.map((member) => member.user).sort()) {
    if (pets.has(user)) continue;
    let pet = petOf(user);
    for (let tries = 0; tries < PETS.length && taken.has(pet); tries += 1) pet = PETS[(PETS.indexOf(pet) + 1) % PETS.length];
    taken.add(pet);
    pets.set(user, pet);
  }
  return pets;
}

function petOf(user) {
  return PETS[hashOf(user) % PETS.length];
}

function hashOf(text) {
  let hash = 7;
  for (const letter of text) hash = (Math.imul(hash, 31) + letter.codePointAt(0)) >>> 0;
  return hash;
}

/** A number in [0, 1) that follows from two integers (the finalizer of MurmurHash3). */
function dice(seed, seq) {
  let h = Math.imul(seed, 0x9e3779b1) ^ seq;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}
