/** Whom the player blocks: the service keeps their words back, the page hides what is left of them. */
import { sentence } from '/words.js';

/** @type {Set<string>} */
const blocked = new Set();

export const isBlocked = (user) => blocked.has(user);

/** Asks the service once the player is in. @param {import('/client/index.js').Client} client */
export async function readBlocks(client) {
  const { users } = await client.blocked().catch(() => ({ users: [] })); // nothing is hidden that would be shown otherwise
  take(users);
}

function take(users) {
  blocked.clear();
  for (const user of users) blocked.add(user);
  document.dispatchEvent(new Event('blocks'));
}

/**
 * What the player may do about somebody's words.
 * @param {import('/client/index.js').Lobby} lobby @param {string} user @param {string} name @param {(text: string) => void} tell
 * @returns {import('/menu.js').Item}
 */
export function blockItem(lobby, user, name, tell) {
  const change = (op, done) => lobby.command(op, { user }).then(({ users }) => (take(users), tell(done)), (error) => tell(sentence(error)));
  if (isBlocked(user)) return { label: 'Unblock', act: () => void change('unblock', `You read again what ${name} writes.`) };
  return { label: 'Block', kind: 'danger', act: () => void change('block', `You do not read any more what ${name} writes.`) };
}
