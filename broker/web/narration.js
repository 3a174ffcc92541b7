/** A lobby's events in words. */
import { element } from '/element.js';
import { time } from '/words.js';

/**
 * @param {any} event
 * @param {string} me
 * @param {(user: string) => string} nameOf
 * @returns {(string | Node)[] | null} null when there is nothing to tell
 */
export function narrate(event, me, nameOf) {
  const { ev, user, by, reason, until, role, settings } = event;
  const who = (id) => element('bdi', {}, id === me ? 'You' : nameOf(id));
  const because = `${until ? ` until ${time(until)}` : ''}${reason ? `: ${reason}` : ''}`;
  const mine = user === me;
  const were = mine ? 'were' : 'was';
  const byWhom = by && by !== user ? [' by ', element('bdi', {}, by === me ? 'you' : nameOf(by))] : [];
  switch (ev) {
    case 'joined':
      return [who(user), ' joined'];
    case 'left':
      return [who(user), ' left'];
    case 'host_changed':
      return user ? [who(user), mine ? ' are now the host' : ' is now the host'] : null;
    case 'kicked':
      return [who(user), ` ${were} kicked`, ...byWhom, because];
    case 'banned':
      return [who(user), ` ${were} banned`, ...byWhom, because];
    case 'unbanned':
      return [who(user), ' may join again'];
    case 'muted':
      return [who(user), ` ${were} muted`, ...byWhom, because];
    case 'unmuted':
      return [who(user), ' may write again'];
    case 'updated':
      if (user && role) return [who(user), `${mine ? ' are' : ' is'} now a ${role}`];
      return settings && by && event.seq > 1 ? [who(by), ' changed the settings'] : null;
    case 'locked':
      return [by ? who(by) : 'The service', event.locked ? ' set a password' : ' took the password away'];
    case 'invited':
      return by ? [who(by), ' made an invite'] : null;
    case 'game_started':
      return [`Game ${event.game} began`];
    case 'game_finished':
      return finished(event, me, who);
    case 'closed':
      return by ? ['The lobby was closed by ', element('bdi', {}, by === me ? 'you' : nameOf(by))] : ['The lobby was closed'];
    default:
      return null;
  }
}

function finished({ game, results }, me, who) {
  const winner = typeof results?.winner === 'string' ? results.winner : null;
  return winner ? [who(winner), ` won game ${game}`] : [`Game ${game} ended`];
}
