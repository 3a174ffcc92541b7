/** The page: puts its parts together and follows the address (`#/`, `#/lobby/<id>[/invite/<code>]`, `#/operator`, `#/reports`). */
import { Client } from '/client/index.js';

import { showAwards } from '/awards.js';
import { showConnection } from '/connection.js';
import { byId, say } from '/element.js';
import { becomeGuest, bringToken, forgetGuest, guestToken, rolesOf, storedGuest } from '/guest.js';
import { showLobbies } from '/lobbies.js';
import { LobbyView } from '/lobby.js';
import { closeMenu } from '/menu.js';
import { watchService } from '/operator.js';
import { seesReports, showReports } from '/reports.js';

/** @type {{client: Client, lobbies: ReturnType<typeof showLobbies>, hideConnection: () => void, hideAwards: () => void} | null} */
let visit = null;
/** Ends the operator's view. @type {(() => void) | null} */
let unwatch = null;
/** Ends the view of what was reported. @type {(() => void) | null} */
let closeReports = null;
/** @type {LobbyView | null} */
let view = null;
/** Settings of lobbies that this tab creates, until they are entered. @type {Map<string, object>} */
const creating = new Map();

function begin(guest) {
  const client = new Client({ url: '/ws', token: guestToken });
  say(byId('who-name'), guest.name);
  const lobbies = showLobbies({
    connected: () => client.state === 'open',
    create(id, settings) {
      creating.set(id, settings);
      location.hash = `#/lobby/${id}`;
    },
  });
  visit = { client, lobbies, hideConnection: showConnection(client, end), hideAwards: showAwards(client) };
  void client.connect();
  follow();
}

function end() {
  view?.close();
  view = null;
  visit?.client.close();
  visit?.lobbies.stop();
  visit?.hideConnection();
  visit?.hideAwards();
  visit = null;
  forgetGuest();
  follow();
}

/** Shows what the address names. */
function follow() {
  closeMenu();
  for (const dialog of document.querySelectorAll('dialog[open]')) dialog.close();
  const [, id, invite] = /^#\/lobby\/([A-Za-z0-9_-]{1,64})(?:\/invite\/([^/]{1,256}))?$/.exec(location.hash) ?? [];
  const roles = visit === null ? [] : rolesOf(storedGuest());
  const admin = roles.includes('admin');
  const operates = admin && location.hash === '#/operator';
  const moderates = seesReports(roles) && location.hash === '#/reports';
  const aside = operates || moderates;
  byId('name-view').hidden = visit !== null;
  byId('list-view').hidden = visit === null;
  byId('who').hidden = visit === null;
  byId('sign-out').hidden = visit === null;
  if (visit && id && view?.id !== id) {
    view?.close();
    view = new LobbyView(visit.client, id, invite && plain(invite), { entered: () => void visit?.lobbies.refresh(), left: leave, told: (lobby) => visit?.lobbies.tell(lobby) });
    void view.enter(creating.get(id));
    creating.delete(id);
    visit.lobbies.setCurrent(id);
  }
  // A narrow page shows the list or the lobby, a wide one both.
  document.body.dataset.view = visit === null ? 'name' : aside ? 'aside' : id ? 'lobby' : 'list';
  byId('lobby-view').hidden = visit === null || view === null || aside;
  byId('nothing-view').hidden = visit === null || view !== null || aside;
  byId('operator-view').hidden = !operates;
  byId('operator-open').hidden = !admin;
  byId('reports-view').hidden = !moderates;
  byId('reports-open').hidden = !seesReports(roles);
  if (operates) unwatch ??= watchService();
  else {
    unwatch?.();
    unwatch = null;
  }
  if (moderates) closeReports ??= showReports();
  else {
    closeReports?.();
    closeReports = null;
  }
  document.title = moderates ? 'Reported messages' : operates ? 'The service' : view?.title ?? 'Lobbies';
  if (visit === null) byId('name-input').focus();
  // Whoever uses the keyboard goes on where the view begins, not at the top of the page.
  else if (!id && !document.activeElement?.offsetParent) byId('list-title').focus();
}

/** What stands in the address, which anybody may have written. */
function plain(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function leave() {
  view?.close();
  view = null;
  visit?.lobbies.setCurrent(undefined);
  void visit?.lobbies.refresh();
  if (location.hash === '#/') follow();
  else location.hash = '#/';
}

byId('name-form').onsubmit = async (event) => {
  event.preventDefault();
  const button = event.submitter ?? byId('name-form').querySelector('button');
  const name = byId('name-input').value.trim();
  if (!name) return;
  button.disabled = true;
  say(byId('name-error'), '');
  try {
    begin(await becomeGuest(name));
  } catch (error) {
    say(byId('name-error'), error.message);
  } finally {
    button.disabled = false;
  }
};
byId('token-form').onsubmit = async (event) => {
  event.preventDefault();
  say(byId('token-error'), '');
  try {
    const guest = await bringToken(byId('token-input').value.trim());
    byId('token-input').value = '';
    begin(guest);
  } catch (error) {
    say(byId('token-error'), error.message);
  }
};
byId('sign-out').onclick = end;
addEventListener('hashchange', follow);
document.addEventListener('visibilitychange', () => document.hidden || view?.seen());

const guest = storedGuest();
if (guest) begin(guest);
else follow();
