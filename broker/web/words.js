/** What the service's codes mean to a player. */
const SENTENCES = {
  bad_request: 'The service did not understand this.',
  too_large: 'This message is too long.',
  unauthorized: 'Your name is no longer valid here. Choose it again.',
  token_expired: 'Your visit has expired. Choose your name again.',
  forbidden: 'You may not do this here.',
  not_found: 'There is no such lobby.',
  not_member: 'You are not in this lobby any more.',
  lobby_full: 'This lobby is full.',
  lobby_closed: 'This lobby was closed.',
  wrong_password: 'The password is wrong.',
  conflict: 'That does not go together with what is under way.',
  unknown_op: 'This service does not offer that yet.',
  banned: 'You are banned from this lobby.',
  kicked: 'You were kicked from this lobby.',
  muted: 'You are muted in this lobby.',
  slow_mode: 'This lobby is in slow mode.',
  rejected: 'The word filter refused this message.',
  rate_limited: 'That was too fast.',
  owner_unavailable: 'The lobby is just moving.',
  overloaded: 'The service is busy.',
  degraded: 'The service cannot take messages at the moment.',
  maintenance: 'No new lobbies for a while: the service is being maintained.',
  timeout: 'There was no answer; it may or may not have arrived.',
  internal: 'The service made a mistake.',
  connection_lost: 'The connection was lost.',
  outbox_full: 'Too many messages are waiting for the connection.',
  closed: 'You are disconnected.',
};

/** One sentence for an error, and when to try again if that can help. */
export function sentence(error) {
  const text = SENTENCES[error.code] ?? (error.message || 'Something went wrong.');
  // What exactly was wrong with a command, or what stands against it, only the service can say.
  if ((error.code === 'bad_request' || error.code === 'conflict') && error.message && error.message !== error.code) return `${text} (${error.message})`;
  const seconds = Math.ceil(error.retryMs / 1000);
  return seconds > 1 ? `${text} Try again in ${seconds} seconds.` : text;
}

const CLOSINGS = {
  4500: 'Your name is no longer valid here.',
  4504: 'You were removed from the service.',
  4505: 'You are banned from the service.',
  4506: 'You connected somewhere else.',
  4507: 'There are too many connections from here.',
  token: 'The service takes no guests at the moment.',
};

/** Why the connection ended for good. */
export function closing({ code, reason }) {
  return CLOSINGS[code] ?? (reason ? `Disconnected: ${reason}.` : 'Disconnected.');
}

const clock = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const day = new Intl.DateTimeFormat(undefined, { weekday: 'short', day: 'numeric', month: 'short' });

/** A time of today as a clock, an older one with its day. */
export function time(at) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

/** A user without a known name; guests have long ids. */
export function stranger(user) {
  return user.startsWith('guest-') ? `Guest ${user.slice(6, 10)}` : user;
}
