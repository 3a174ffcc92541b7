/** The list of a lobby's members: host first, then by name, with roles, who is ready, and who is away. */
import { avatar, byId, element, say } from '/element.js';
import { openMenu } from '/menu.js';
import { actionsOn } from '/moderation.js';
import { stranger } from '/words.js';

/** A very large lobby is not drawn to the last member. */
const SHOWN_MAX = 200;
const WEIGHTS = { moderator: 1, player: 2, spectator: 3 };

/**
 * @param {import('/client/index.js').Lobby} lobby
 * @param {string} me
 * @param {(text: string) => void} tell what came of an action
 */
export function drawMembers(lobby, me, tell) {
  const nameOf = (member) => member.name || stranger(member.user);
  const weight = (member) => (member.user === lobby.host ? 0 : WEIGHTS[member.role] ?? 2);
  const members = [...lobby.members.values()].sort(
    (a, b) => weight(a) - weight(b) || Number(a.away ?? false) - Number(b.away ?? false) || nameOf(a).localeCompare(nameOf(b)),
  );
  const list = byId('members');
  const focused = document.activeElement?.closest('#members li')?.dataset.user;
  list.replaceChildren(...members.slice(0, SHOWN_MAX).map((member) => makeRow(lobby, me, member, nameOf(member), tell)));
  if (focused !== undefined) [...list.children].find(({ dataset }) => dataset.user === focused)?.querySelector('button')?.focus();
  const hidden = Math.max(lobby.membersTotal, members.length) - list.children.length;
  byId('members-more').hidden = hidden <= 0;
  say(byId('members-more'), `and ${hidden} more`);
  say(byId('lobby-count'), String(lobby.membersTotal));
  byId('lobby-members').setAttribute('aria-label', `Members: ${lobby.membersTotal}`);
}

function makeRow(lobby, me, member, name, tell) {
  const { user, role, away, ready } = member;
  const host = user === lobby.host;
  const tag = (text, kind = '') => element('span', { class: `tag ${kind}` }, text);
  const more = element('button', { type: 'button', class: 'more', 'aria-haspopup': 'menu', 'aria-expanded': 'false', 'aria-label': `What to do about ${name}` }, '⋯');
  more.onclick = () => openMenu(more, name, actionsOn(lobby, me, user, tell));
  return element(
    'li',
    { class: away ? 'away' : '', 'data-user': user },
    avatar(user, name),
    element('bdi', { class: 'name', title: name }, name),
    user === me ? tag('you') : null,
    host ? tag('host', 'host') : null,
    !host && role === 'moderator' ? tag('moderator', 'host') : null,
    !host && role === 'spectator' ? tag('watches') : null,
    ready && lobby.game === null ? tag('ready', 'good') : null,
    away ? tag('away') : null,
    actionsOn(lobby, me, user, tell).length > 0 ? more : null,
  );
}
