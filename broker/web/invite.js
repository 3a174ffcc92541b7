/** Bringing others in: the link of a lobby, and invites that let somebody in, so often and so long. */
import { openDialog } from '/dialog.js';
import { byId, say } from '/element.js';
import { sentence } from '/words.js';

/** @param {import('/client/index.js').Lobby} lobby */
export function openInvite(lobby) {
  const link = byId('invite-link');
  link.value = new URL(`#/lobby/${lobby.id}`, location.href).href;
  say(byId('invite-text'), 'Whoever opens this link comes here.');
  const done = byId('invite-done');
  say(done, '');
  byId('invite-copy').onclick = async () => {
    try {
      await navigator.clipboard.writeText(link.value);
      say(done, 'Copied.');
    } catch {
      // Not a secure page, or not allowed.
      link.select();
      say(done, 'Copy the marked text.');
    }
  };
  openDialog('invite', async (form) => {
    const uses = Number(form.elements.namedItem('uses').value) || undefined;
    const seconds = Number(form.elements.namedItem('for_s').value) || undefined;
    const made = await makeInvite(lobby, uses, seconds);
    link.value = new URL(`#/lobby/${lobby.id}/invite/${made}`, location.href).href;
    say(byId('invite-text'), 'Whoever opens this link is let in.');
    say(done, 'An invite was made.');
    link.select();
    throw new Error(''); // stay open, with the link
  });
  link.focus();
  link.select();
}

/** @returns {Promise<string>} as it stands in an address */
async function makeInvite(lobby, uses, seconds) {
  const ok = await lobby.command('invite', { uses, for_s: seconds }).catch((error) => {
    if (error.code === 'unknown_op') throw new Error('This service makes no invites. The link above works as long as the lobby is open to all.');
    throw new Error(error.code === 'forbidden' ? 'Only who runs this lobby makes invites.' : sentence(error));
  });
  if (typeof ok.invite !== 'string') throw new Error('No invite could be made.');
  return encodeURIComponent(ok.invite);
}
