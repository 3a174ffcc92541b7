/** A lobby's settings as a form: for a new lobby, and for the host of an open one. */
import { openDialog } from '/dialog.js';
import { byId, element } from '/element.js';
import { sentence } from '/words.js';

/**
 * Every setting that the form offers. `group` is the part of the form; `empty` is what the service has when nothing is
 * said; with `only` the setting is offered for a new lobby, or for an open one.
 * @type {{name: string, label: string, group: 'first' | 'door' | 'talk' | 'game' | 'more',
 *   type: 'text' | 'number' | 'check' | 'choice' | 'password' | 'words' | 'json',
 *   hint?: string, min?: number, max?: number, choices?: [string, string][], empty?: any, only?: 'create' | 'change'}[]}
 */
const FIELDS = [
  { name: 'name', label: 'Name of the lobby', group: 'first', type: 'text', max: 64 },
  { name: 'capacity', label: 'Places', hint: '(optional)', group: 'first', type: 'number', min: 1, max: 100_000 },
  {
    name: 'visibility', label: 'Who finds it', group: 'first', type: 'choice', empty: 'public',
    choices: [['public', 'Everybody: it stands in the list'], ['unlisted', 'Only people with the link'], ['private', 'Nobody who was not let in']],
  },
  { name: 'password', label: 'Password', hint: '(optional)', group: 'door', type: 'password', max: 128, only: 'create' },
  { name: 'password', label: 'New password', hint: '(empty: as it is)', group: 'door', type: 'password', max: 128, only: 'change' },
  { name: 'unlock', label: 'No password any more', group: 'door', type: 'check', empty: false, only: 'change' },
  { name: 'invite_only', label: 'Only with an invite', group: 'door', type: 'check', empty: false },
  { name: 'close_when_empty', label: 'Closes when the last one leaves', group: 'door', type: 'check', empty: false },
  { name: 'slow_mode_s', label: 'Seconds between two messages of one player', group: 'talk', type: 'number', min: 0, max: 3_600, empty: 0 },
  { name: 'word_filter', label: 'Words that nobody may write', hint: '(commas between; bad* is every word that begins so)', group: 'talk', type: 'words', empty: [] },
  { name: 'spectators_send', label: 'Who only watches may write', group: 'talk', type: 'check', empty: false },
  { name: 'join_in_progress', label: 'Players may join during a game', group: 'game', type: 'check', empty: true },
  {
    name: 'reports', label: 'Who reports damage', hint: '(counts towards achievements)', group: 'game', type: 'choice', empty: 'server',
    choices: [['members', 'Everybody their own'], ['host', 'The host'], ['server', 'The game’s server']],
  },
  {
    name: 'host_policy', label: 'Who is host when the host goes', group: 'more', type: 'choice', empty: 'oldest',
    choices: [['oldest', 'Who has been here longest'], ['listed', 'The first of a list who is here'], ['manual', 'Nobody, until it is handed over']],
  },
  { name: 'hosts', label: 'That list', hint: '(user ids, commas between)', group: 'more', type: 'words', empty: [] },
  { name: 'metadata', label: 'Values of your game', hint: '(JSON)', group: 'more', type: 'json', empty: {} },
];
/** What the page's own lobbies begin with, where it is not what the service has. */
const BEGINNINGS = { reports: 'members' };
const GROUPS = { door: 'Door', talk: 'Talk', game: 'Game', more: 'More' };

/** @param {(settings: object) => void} create */
export function openCreate(create) {
  draw('New lobby', 'Create', FIELDS.filter(({ only }) => only !== 'change'), BEGINNINGS);
  openDialog('settings', (form) => {
    const settings = read(form, FIELDS.filter(({ only }) => only !== 'change'), {});
    if (!settings.name) throw new Error('The lobby needs a name.');
    create(settings);
  });
  byId('setting-name').focus();
}

/** @param {import('/client/index.js').Lobby} lobby */
export function openSettings(lobby) {
  const fields = FIELDS.filter(({ only }) => only !== 'create');
  const before = lobby.settings;
  draw('Settings', 'Save', fields, before);
  const end = element('button', { type: 'button', class: 'danger' }, 'Close the lobby');
  end.onclick = () => {
    if (end.dataset.sure) void lobby.command('close').then(() => byId('settings').close(), (error) => tell(sentence(error)));
    end.dataset.sure = 'yes';
    end.textContent = 'Really close it for everybody?';
  };
  byId('settings-more').append(end);
  openDialog('settings', async (form) => {
    const settings = read(form, fields, before);
    if (Object.keys(settings).length === 0) return;
    await lobby.command('update', { settings }).catch((error) => {
      throw new Error(sentence(error));
    });
  });
}

const tell = (text) => (byId('settings').querySelector('.error').textContent = text);

function draw(title, action, fields, values) {
  byId('settings-title').textContent = title;
  byId('settings').querySelector('[type=submit]').textContent = action;
  byId('settings-more').replaceChildren();
  const made = (group) => fields.filter((field) => field.group === group).map((field) => makeField(field, values[field.name] ?? field.empty));
  const groups = Object.entries(GROUPS).map(([group, label]) => [label, made(group)]).filter(([, controls]) => controls.length > 0);
  byId('settings-fields').replaceChildren(
    ...made('first'),
    ...groups.map(([label, controls]) => element('details', { class: 'group' }, element('summary', {}, label), ...controls)),
  );
}

function makeField({ name, label, hint, type, min, max, choices }, value) {
  const id = `setting-${name}`;
  const shown = [label, hint ? element('span', { class: 'hint' }, ` ${hint}`) : null];
  if (type === 'check') {
    const box = element('input', { id, name, type: 'checkbox' });
    box.checked = value === true;
    return element('p', { class: 'field' }, element('label', { class: 'check' }, box, element('span', {}, ...shown.filter(Boolean))));
  }
  let control;
  if (type === 'choice') {
    control = element('select', { id, name }, ...choices.map(([key, text]) => element('option', { value: key }, text)));
    control.value = value;
  } else {
    const kind = { number: 'number', password: 'password' }[type] ?? 'text';
    control = element('input', { id, name, type: kind, autocomplete: type === 'password' ? 'new-password' : 'off', ...(min === undefined ? {} : { min: String(min) }), ...(max === undefined ? {} : { [kind === 'number' ? 'max' : 'maxlength']: String(max) }) });
    if (type === 'json') control.value = Object.keys(value ?? {}).length > 0 ? JSON.stringify(value) : '';
    else control.value = Array.isArray(value) ? value.join(', ') : value ?? '';
  }
  return element('p', { class: 'field' }, element('label', { for: id }, ...shown.filter(Boolean)), control);
}

/** What was changed against `before`. */
function read(form, fields, before) {
  const settings = {};
  for (const { name, type, empty } of fields) {
    const control = form.elements.namedItem(name);
    const now = before[name] ?? empty;
    let value;
    if (type === 'check') value = control.checked;
    else if (type === 'number') value = control.value === '' ? undefined : Number(control.value);
    else if (type === 'words') value = control.value.split(',').map((word) => word.trim()).filter((word) => word !== '');
    else if (type === 'json') value = control.value.trim() === '' ? {} : parse(control.value);
    else if (type === 'password') value = control.value || undefined;
    else value = control.value.trim() || undefined;
    const same = JSON.stringify(value) === JSON.stringify(now);
    if (!same && value !== undefined) settings[name] = value;
    else if (!same && now !== undefined) settings[name] = null;
  }
  if (settings.unlock) settings.password = null;
  delete settings.unlock;
  return settings;
}

function parse(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    // told below
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) throw new Error('The values of the game must be an object in JSON.');
  return value;
}
