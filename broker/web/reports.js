/** Messages that players reported, for tokens of the role `moderator`, `admin` or `server`: the newest first, with what was said around. */
import { ask } from '/dialog.js';
import { byId, element, say } from '/element.js';
import { guestToken } from '/guest.js';
import { sentence, stranger, time } from '/words.js';

/** Reports of one page. */
const PAGE = 20;
const ROLES = ['moderator', 'admin', 'server'];

/** Whether reports are for somebody with these roles. @param {string[]} roles */
export const seesReports = (roles) => roles.some((role) => ROLES.includes(role));

/** Fills the view. @returns {() => void} ends it */
export function showReports() {
  let stopped = false;
  /** @type {string | undefined} */
  let next;
  const list = byId('reports');
  async function read(cursor) {
    byId('reports-more').hidden = true;
    say(byId('reports-error'), '');
    try {
      const page = await call('GET', `/v1/reports?limit=${PAGE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`);
      if (stopped) return;
      const items = page.reports.map(reportItem);
      if (cursor) list.append(...items);
      else list.replaceChildren(...items);
      if (cursor) items[0]?.querySelector('a').focus();
      next = page.next;
      byId('reports-more').hidden = !next;
      byId('reports-empty').hidden = list.childElementCount > 0;
    } catch (error) {
      if (!stopped) say(byId('reports-error'), sentence(error));
    }
  }
  byId('reports-more').onclick = () => void read(next);
  byId('reports-refresh').onclick = () => void read();
  void read();
  return () => {
    stopped = true;
    list.replaceChildren();
  };
}

function reportItem({ lobby, seq, user, by, at, reason, message, context }) {
  const done = element('p', { class: 'hint', role: 'status' });
  const tell = (text) => say(done, text);
  const said = user === null ? 'The service' : stranger(user);
  const around = context.filter(({ ev }) => ev === 'message');
  const before = around.filter((event) => event.seq < seq);
  const after = around.filter((event) => event.seq > seq);
  const path = `/v1/lobbies/${encodeURIComponent(lobby)}`;
  const remove = element('button', { type: 'button', class: 'quiet', 'aria-label': `Delete the message of ${said}` }, 'Delete message');
  remove.onclick = async () => {
    remove.disabled = true;
    try {
      await call('DELETE', `${path}/messages/${seq}`);
      tell('The message is deleted.');
    } catch (error) {
      tell(error.code === 'not_found' ? 'The message is gone already.' : sentence(error));
      remove.disabled = false;
    }
  };
  const ban = element('button', { type: 'button', class: 'quiet', 'aria-haspopup': 'dialog', 'aria-label': `Ban ${said} from the lobby` }, 'Ban from the lobby…');
  ban.onclick = () => ask({ title: `Ban ${said}?`, text: `They leave ${lobby} now, and cannot join it again.`, action: 'Ban', danger: true, fields: [{ name: 'reason', label: 'Reason (everybody sees it)', max: 200 }] }, async (values) => {
    await call('PUT', `${path}/bans/${encodeURIComponent(user)}`, values.reason ? { reason: values.reason } : {}).catch((error) => {
      throw new Error(error.code === 'lobby_closed' ? 'This lobby was closed.' : sentence(error));
    });
    tell(`${said} is banned from the lobby.`);
  });
  return element(
    'li', { class: 'report' },
    element('p', { class: 'report-head' },
      element('bdi', { class: 'from' }, said), ' in ', element('a', { href: `#/lobby/${encodeURIComponent(lobby)}` }, element('bdi', {}, lobby)), ' ',
      element('time', { datetime: new Date(message.at).toISOString() }, time(message.at))),
    ...before.map(contextLine),
    element('blockquote', { class: 'body', dir: 'auto' }, textOf(message.body)),
    ...after.map(contextLine),
    element('p', { class: 'hint' }, 'Reported by ', element('bdi', {}, stranger(by)), ' ', element('time', { datetime: new Date(at).toISOString() }, time(at)), reason ? ': ' : '.', reason ? element('bdi', { class: 'reason' }, reason) : null),
    element('div', { class: 'buttons' }, remove, user === null ? null : ban),
    done,
  );
}

function contextLine({ from, body }) {
  return element('p', { class: 'around', dir: 'auto' }, element('bdi', { class: 'from' }, from === null ? 'The service' : stranger(from)), ': ', textOf(body));
}

function textOf(body) {
  if (body === null || body === '') return 'This message was deleted.';
  return typeof body === 'string' ? body : JSON.stringify(body);
}

/** Calls the service as the player. Throws its problem, with the code. */
async function call(method, path, body) {
  const headers = { authorization: `Bearer ${await guestToken('first')}`, ...(body ? { 'content-type': 'application/json' } : {}) };
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: 'no-store' }).catch(() => {
    throw new Error('The service cannot be reached.');
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(answer.detail ?? `HTTP ${response.status}`), { code: answer.code });
  return answer;
}
