/** Who the player is: a guest, or somebody with a token of their own. Kept for this tab, so that two tabs are two players. */

const KEY = 'mlms.guest';
const NAME_BYTES_MAX = 64;

/** @typedef {{token: string, user: string, name: string, expires_at: number, own?: boolean}} Guest */

/** @returns {Guest | null} */
export function storedGuest() {
  try {
    const guest = JSON.parse(sessionStorage.getItem(KEY));
    return typeof guest?.token === 'string' && typeof guest.name === 'string' ? guest : null;
  } catch {
    return null;
  }
}

/** Takes a name. Throws with a sentence for the player. @returns {Promise<Guest>} */
export async function becomeGuest(name) {
  if (new TextEncoder().encode(name).length > NAME_BYTES_MAX) throw new Error('This name is too long.');
  const response = await fetch('/v1/guests', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name }),
  }).catch(() => {
    throw new Error('The service cannot be reached.');
  });
  if (!response.ok) throw await refusal(response);
  return keep(await response.json());
}

/** Comes with a token that somebody gave to the player. Throws with a sentence. @returns {Promise<Guest>} */
export async function bringToken(token) {
  const claims = claimsOf(token);
  if (typeof claims.sub !== 'string') throw new Error('This is not a token.');
  const response = await readLobbies(token).catch(() => null);
  if (!response) throw new Error('The service cannot be reached.');
  if (response.status === 401) throw new Error('The service does not accept this token.');
  const name = typeof claims.name === 'string' ? claims.name : claims.sub;
  return keep({ token, user: claims.sub, name, expires_at: claims.exp * 1000 || 0, own: true });
}

/** The roles that the token claims; the service decides what they are worth. @param {Guest | null} guest @returns {string[]} */
export function rolesOf(guest) {
  const { roles } = guest ? claimsOf(guest.token) : {};
  return Array.isArray(roles) ? roles : [];
}

export function forgetGuest() {
  sessionStorage.removeItem(KEY);
}

/** The client's token provider: the same guest as long as the service knows it, else a new one of the same name. */
export async function guestToken(reason) {
  const guest = storedGuest();
  if (!guest) throw Object.assign(new Error('no name was chosen'), { permanent: true });
  if (guest.expires_at > Date.now() + 5_000) {
    // A browser is not told why a WebSocket was refused, so ask where one is.
    const refused = reason === 'refused' && (await readLobbies(guest.token)).status === 401;
    if (!refused) return guest.token;
  }
  if (guest.own) throw Object.assign(new Error('the token has ended'), { permanent: true });
  return (await becomeGuest(guest.name)).token;
}

/** One page of the lobbies. */
export function readLobbies(token, cursor) {
  const query = cursor ? `?cursor=${encodeURIComponent(cursor)}` : '';
  return fetch(`/v1/lobbies${query}`, { headers: { authorization: `Bearer ${token}` } });
}

function keep(guest) {
  sessionStorage.setItem(KEY, JSON.stringify(guest));
  return guest;
}

function claimsOf(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')), (letter) => letter.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}

async function refusal(response) {
  const waits = Number(response.headers.get('retry-after'));
  if (response.status === 429 || response.status === 503) {
    return new Error(`The service is busy. Try again in ${waits > 0 ? waits : 'a few'} seconds.`);
  }
  if (response.status === 400) return new Error('This name cannot be used. Try another one.');
  return Object.assign(new Error('The service takes no guests at the moment.'), { permanent: response.status < 500 });
}
