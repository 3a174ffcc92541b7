/** The page: puts its parts together and follows the address (`#/`, `#/lobby/<id>`). */
import { Client } from '/client/index.js';

import { showConnection } from '/connection.js';
import { byId, say } from '/element.js';
import { becomeGuest, forgetGuest, guestToken, storedGuest } from '/guest.js';
import { showLobbies } from '/lobbies.js';
import { LobbyView } from '/lobby.js';

/** @type {{client: Client, lobbies: ReturnType<typeof showLobbies>, hideConnection: () => void} | null} */
let visit = null;
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
  visit = { client, lobbies, hideConnection: showConnection(client, end) };
  void client.connect();
  follow();
}

function end() {
  view?.close();
  view = null;
  visit?.client.close();
  visit?.lobbies.stop();
  visit?.hideConnection();
  visit = null;
  forgetGuest();
  follow();
}

/** Shows what the address names. */
function follow() {
  const id = /^#\/lobby\/([A-Za-z0-9_-]{1,64})$/.exec(location.hash)?.[1];
  byId('name-view').hidden = visit !== null;
  byId('list-view').hidden = visit === null;
  byId('who').hidden = visit === null;
  byId('sign-out').hidden = visit === null;
  if (visit && id && view?.id !== id) {
    view?.close();
    view = new LobbyView(visit.client, id, { entered: () => void visit?.lobbies.refresh(), left: leave, told: (lobby) => visit?.lobbies.tell(lobby) });
    void view.enter(creating.get(id));
    creating.delete(id);
    visit.lobbies.setCurrent(id);
  }
  // A narrow page shows the list or the lobby, a wide one both.
  document.body.dataset.view = visit === null ? 'name' : id ? 'lobby' : 'list';
  byId('lobby-view').hidden = visit === null || view === null;
  byId('nothing-view').hidden = visit === null || view !== null;
  document.title = view?.title ?? 'Lobbies';
  if (visit === null) byId('name-input').focus();
  // Whoever uses the keyboard goes on where the view begins, not at the top of the page.
  else if (!id && !document.activeElement?.offsetParent) byId('list-title').focus();
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
byId('sign-out').onclick = end;
addEventListener('hashchange', follow);
document.addEventListener('visibilitychange', () => document.hidden || view?.seen());

const guest = storedGuest();
if (guest) begin(guest);
else follow();
