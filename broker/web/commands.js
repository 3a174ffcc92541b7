/** What begins with a slash in the composer: a command to the service, and the answer in words. */
import { sentence, stranger } from '/words.js';

/**
 * @typedef {{lobby: import('/client/index.js').Lobby, names: (user: string) => string,
 *   invite: () => void, leave: () => void, knownUsers: () => string[]}} Place
 * @typedef {{usage: string, what: string, run: (place: Place, rest: string) => Promise<string> | string}} SlashCommand
 */

/** @type {Record<string, SlashCommand>} */
export const COMMANDS = {
  help: { usage: '', what: 'lists these commands', run: () => Object.entries(COMMANDS).map(([name, { usage, what }]) => `/${name} ${usage}`.trim() + `: ${what}`).join('\n') },
  kick: { usage: 'name [reason]', what: 'removes a member', run: (place, rest) => moderate(place, 'kick', rest, 'was kicked.') },
  ban: { usage: 'name [10m|2h|7d] [reason]', what: 'removes somebody and keeps them out', run: (place, rest) => moderate(place, 'ban', rest, 'is banned.') },
  unban: { usage: 'name', what: 'lets somebody join again', run: (place, rest) => moderate(place, 'unban', rest, 'may join again.') },
  mute: { usage: 'name [10m|2h|7d] [reason]', what: 'lets a member no longer write', run: (place, rest) => moderate(place, 'mute', rest, 'is muted.') },
  unmute: { usage: 'name', what: 'lets a member write again', run: (place, rest) => moderate(place, 'unmute', rest, 'may write again.') },
  transfer: { usage: 'name', what: 'makes another member the host', run: (place, rest) => moderate(place, 'transfer', rest, 'is the host now.') },
  role: {
    usage: 'name moderator|player|spectator',
    what: 'gives a member another role',
    run(place, rest) {
      const [, who, role] = /^(.*\S)\s+(moderator|player|spectator)$/.exec(rest) ?? [];
      if (!role) throw new Error('Say /role name moderator, player or spectator.');
      const { user } = find(place, who);
      return place.lobby.command('role', { user, role }).then(() => `${place.names(user)} is a ${role} now.`);
    },
  },
  tell: {
    usage: 'name text',
    what: 'says something to one member alone; it is not kept',
    run(place, rest) {
      const { user, after } = find(place, rest);
      if (!after) throw new Error('Say what you want to tell.');
      const member = place.lobby.members.get(user);
      if (!member || member.away) throw new Error(`${place.names(user)} is not here to read it.`);
      const to = [user, place.lobby.client.user()];
      return place.lobby.send('chat', after, { to }).then(() => '');
    },
  },
  ready: { usage: '', what: 'says that you are ready', run: ({ lobby }) => lobby.command('ready', { ready: true }).then(() => 'You are ready.') },
  unready: { usage: '', what: 'takes it back', run: ({ lobby }) => lobby.command('ready', { ready: false }).then(() => 'You are not ready.') },
  watch: { usage: '', what: 'lets you only watch', run: ({ lobby }) => lobby.command('role', { user: lobby.client.user(), role: 'spectator' }).then(() => 'You watch now.') },
  invite: { usage: '', what: 'shows a link to this lobby', run: (place) => (place.invite(), '') },
  close: { usage: '', what: 'ends this lobby', run: ({ lobby }) => lobby.command('close').then(() => 'The lobby is closed.') },
  leave: { usage: '', what: 'leaves this lobby', run: (place) => (place.leave(), '') },
};

/** The commands that a text may become, for a hint beside the composer. */
export function hintFor(text) {
  const typed = /^\/([a-z]*)(\s|$)/.exec(text);
  if (!typed) return '';
  const matching = Object.entries(COMMANDS).filter(([name]) => (typed[2] ? name === typed[1] : name.startsWith(typed[1])));
  if (matching.length === 0) return 'There is no such command. /help lists them.';
  if (matching.length > 3) return matching.map(([name]) => `/${name}`).join('  ');
  return matching.map(([name, { usage, what }]) => `/${name} ${usage}`.trim() + `: ${what}`).join('\n');
}

/** The name of the only command that begins like this. */
export function completionOf(text) {
  const names = Object.keys(COMMANDS).filter((name) => text.length > 1 && `/${name}`.startsWith(text));
  return names.length === 1 ? `/${names[0]} ` : '';
}

/** Runs it. @param {Place} place @returns {Promise<string>} the answer; throws a sentence */
export async function runCommand(place, text) {
  const [, name, rest] = /^\/(\S*)\s*([\s\S]*)$/.exec(text) ?? [];
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (!command) throw new Error(`There is no command /${name.slice(0, 40)}. /help lists them.`);
  try {
    return await command.run(place, rest.trim());
  } catch (error) {
    throw error.code ? new Error(sentence(error)) : error;
  }
}

async function moderate(place, op, rest, done) {
  const { user, after } = find(place, rest);
  const [, time, reason] = /^(\d+[smhd](?=\s|$))?\s*([\s\S]*)$/.exec(after);
  const fields = { user };
  if (time) fields.for_s = Number.parseInt(time, 10) * { s: 1, m: 60, h: 3_600, d: 86_400 }[time.at(-1)];
  if (reason) fields.reason = reason;
  await place.lobby.command(op, fields);
  return `${place.names(user)} ${done}`;
}

/** The user whose name or id the text begins with; the longest name wins, since names have spaces. */
function find({ knownUsers, names }, text) {
  const rest = text.replace(/^@/, '');
  if (!rest) throw new Error('Say the name of a member, too.');
  const lower = rest.toLowerCase();
  const starts = (name) => name !== '' && lower.startsWith(name.toLowerCase()) && /^(\s|$)/.test(rest.slice(name.length));
  const found = new Map();
  for (const user of knownUsers()) {
    for (const name of [names(user), user, stranger(user)]) {
      if (starts(name) && name.length >= (found.get(user)?.length ?? 0)) found.set(user, name);
    }
  }
  const longest = Math.max(0, ...[...found.values()].map(({ length }) => length));
  const best = [...found].filter(([, name]) => name.length === longest);
  if (best.length === 0) throw new Error(`Nobody here is called ${rest.split(/\s/)[0].slice(0, 40)}.`);
  if (best.length > 1) throw new Error('Several members have this name: use the menu beside the one you mean.');
  return { user: best[0][0], after: rest.slice(longest).trim() };
}
