/** Who may do what to whom in a lobby, as far as the page offers it. The service decides. */
import { blockItem } from '/blocks.js';
import { ask } from '/dialog.js';
import { rolesOf, storedGuest } from '/guest.js';
import { sentence, stranger } from '/words.js';

const RANKS = { spectator: 1, player: 2, moderator: 3, host: 4 };
const OVERSEER = 5;

/** How long a ban or a mute holds; nothing: for ever. */
const DURATIONS = [['', 'For ever'], ['300', '5 minutes'], ['3600', '1 hour'], ['86400', '1 day'], ['604800', '1 week']];

/** @param {import('/client/index.js').Lobby} lobby @param {string} user */
export function rankOf(lobby, user) {
  return RANKS[user === lobby.host ? 'host' : lobby.members.get(user)?.role] ?? 0;
}

/** The own rank: the higher of what the membership and the token give. */
export function myRank(lobby, me) {
  const overseer = rolesOf(storedGuest()).some((role) => role === 'moderator' || role === 'admin' || role === 'server');
  return overseer ? OVERSEER : rankOf(lobby, me);
}

export const isHost = (lobby, me) => lobby.host === me;
export const mayModerate = (lobby, me) => myRank(lobby, me) >= RANKS.moderator;
export const mayRun = (lobby, me) => myRank(lobby, me) >= RANKS.host;

/**
 * What the player may do to a member.
 * @param {import('/client/index.js').Lobby} lobby
 * @param {string} me
 * @param {string} user
 * @param {(text: string) => void} tell what came of it
 * @returns {import('/menu.js').Item[]}
 */
export function actionsOn(lobby, me, user, tell) {
  const mine = myRank(lobby, me);
  const theirs = rankOf(lobby, user);
  const member = lobby.members.get(user);
  const name = member?.name || stranger(user);
  const act = (op, fields, done) => lobby.command(op, { user, ...fields }).then(() => tell(done), (error) => tell(sentence(error)));
  const role = (label, to, done) => ({ label, act: () => act('role', { role: to }, done) });
  /** @type {import('/menu.js').Item[]} */
  const items = [];
  if (user === me) {
    if (mine === RANKS.player) items.push(role('Only watch', 'spectator', 'You watch now.'));
    return items;
  }
  const block = blockItem(lobby, user, name, tell);
  if (member && mine >= RANKS.host) {
    if (user !== lobby.host) items.push({ label: 'Make host', act: () => act('transfer', {}, `${name} is the host now.`) });
    if (theirs < RANKS.moderator) items.push(role('Make moderator', 'moderator', `${name} is a moderator now.`));
    if (theirs === RANKS.moderator) items.push(role('No longer moderator', 'player', `${name} is a player again.`));
  }
  if (mine < RANKS.moderator || mine <= theirs) return [...items, block];
  if (theirs === RANKS.player) items.push(role('Let only watch', 'spectator', `${name} watches now.`));
  if (theirs === RANKS.spectator) items.push(role('Let play', 'player', `${name} plays now.`));
  items.push({ label: 'Mute…', act: () => askTo(lobby, 'mute', user, name, tell) });
  items.push({ label: 'Unmute', act: () => act('unmute', {}, `${name} may speak again.`) });
  if (member) items.push({ label: 'Kick…', kind: 'danger', act: () => askTo(lobby, 'kick', user, name, tell) });
  items.push({ label: 'Ban…', kind: 'danger', act: () => askTo(lobby, 'ban', user, name, tell) });
  items.push(block);
  return items;
}

/** Brings a message to the notice of those who moderate the service. */
export function askToReport(lobby, seq, name, tell) {
  const text = 'Those who look after this service read it, with what was said around it. Nobody here is told.';
  const fields = [{ name: 'reason', label: 'What is wrong with it', max: 500 }];
  ask({ title: `Report the message of ${name}?`, text, action: 'Report', danger: true, fields }, async ({ reason }) => {
    await lobby.reportMessage(seq, reason || undefined).catch((error) => {
      throw new Error(sentence(error));
    });
    tell('The message was reported.');
  });
}

const VERBS = {
  kick: { title: 'Kick', text: 'They leave now, and may join again.', done: 'was kicked.' },
  ban: { title: 'Ban', text: 'They leave now, and cannot join again.', done: 'is banned.' },
  mute: { title: 'Mute', text: 'They stay, and cannot write.', done: 'is muted.' },
};

function askTo(lobby, op, user, name, tell) {
  const { title, text, done } = VERBS[op];
  const fields = [{ name: 'reason', label: 'Reason (everybody sees it)', max: 200 }];
  if (op !== 'kick') fields.unshift({ name: 'for_s', label: 'For how long', options: DURATIONS });
  ask({ title: `${title} ${name}?`, text, action: title, danger: true, fields }, async ({ for_s: seconds, reason }) => {
    const more = { ...(seconds ? { for_s: Number(seconds) } : {}), ...(reason ? { reason } : {}) };
    await lobby.command(op, { user, ...more }).catch((error) => {
      throw new Error(sentence(error));
    });
    tell(`${name} ${done}`);
  });
}
