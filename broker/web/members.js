/** The list of a lobby's members: host first, then by name, with who is away. */
import { avatar, byId, element, say } from '/element.js';
import { stranger } from '/words.js';

/** A very large lobby is not drawn to the last member. */
const SHOWN_MAX = 200;

/** @param {import('/client/index.js').Lobby} lobby @param {string} me */
export function drawMembers(lobby, me) {
  const nameOf = (member) => member.name || stranger(member.user);
  const weight = (member) => (member.user === lobby.host ? 0 : 1);
  const members = [...lobby.members.values()].sort(
    (a, b) => weight(a) - weight(b) || Number(a.away ?? false) - Number(b.away ?? false) || nameOf(a).localeCompare(nameOf(b)),
  );
  const rows = members.slice(0, SHOWN_MAX).map((member) => {
    const host = member.user === lobby.host;
    return element(
      'li',
      { class: member.away ? 'away' : '', 'data-user': member.user },
      avatar(member.user, nameOf(member)),
      element('bdi', { class: 'name', title: nameOf(member) }, nameOf(member)),
      member.user === me ? element('span', { class: 'tag' }, 'you') : null,
      host ? element('span', { class: 'tag host' }, 'host') : null,
      member.away ? element('span', { class: 'tag' }, 'away') : null,
    );
  });
  byId('members').replaceChildren(...rows);
  const hidden = Math.max(lobby.membersTotal, members.length) - rows.length;
  byId('members-more').hidden = hidden <= 0;
  say(byId('members-more'), `and ${hidden} more`);
  say(byId('lobby-count'), String(lobby.membersTotal));
  byId('lobby-members').setAttribute('aria-label', `Members: ${lobby.membersTotal}`);
}
