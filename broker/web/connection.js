/** The line that tells when the connection is lost, when the next try is, and when it is back. */
import { byId, say } from '/element.js';
import { closing } from '/words.js';

const BACK_MS = 4_000;

/**
 * @param {import('/client/index.js').Client} client
 * @param {() => void} chooseName called when only a new name helps
 */
export function showConnection(client, chooseName) {
  const line = byId('connection');
  const text = byId('connection-text');
  const countdown = byId('connection-countdown');
  const retry = byId('connection-retry');
  let lost = false;
  let degraded = false;
  let timer;

  const show = (kind, words, button) => {
    line.hidden = false;
    line.dataset.kind = kind;
    say(text, words);
    retry.hidden = !button;
    if (button) say(retry, button);
  };
  const count = () => {
    const seconds = Math.max(0, Math.ceil((client.retryAt - Date.now()) / 1000));
    countdown.textContent = seconds > 0 ? `Trying again in ${seconds} s.` : 'Trying again…';
  };
  const calm = () => {
    if (degraded) show('lost', 'The service cannot take messages at the moment. They wait here.');
    else line.hidden = true;
  };
  const update = () => {
    clearInterval(timer);
    countdown.textContent = '';
    switch (client.state) {
      case 'waiting':
        lost = true;
        show('lost', 'The connection is lost.', 'Try now');
        count();
        timer = setInterval(count, 250);
        break;
      case 'connecting':
        if (lost) show('lost', 'The connection is lost.');
        else show('busy', 'Connecting…');
        if (lost) countdown.textContent = 'Trying again…';
        break;
      case 'open':
        if (!lost) return calm();
        lost = false;
        degraded = false;
        show('back', 'Connected again.');
        timer = setTimeout(calm, BACK_MS);
        break;
      case 'closed':
        if (client.reason.code === 'new') break;
        lost = true;
        show('lost', closing(client.reason), nameIsGone(client.reason) ? 'Choose a name' : 'Connect again');
        break;
    }
  };
  retry.onclick = () => {
    if (client.state === 'waiting') client.retryNow();
    else if (nameIsGone(client.reason)) chooseName();
    else void client.connect();
  };
  client.on('state', update);
  client.on('notice', ({ code, message }) => {
    if (code === 'maintenance') show('busy', message);
    else degraded = code === 'degraded';
    if (code !== 'maintenance' && client.state === 'open') calm();
  });
  update();
  return () => {
    clearInterval(timer);
    line.hidden = true;
  };
}

const nameIsGone = ({ code }) => code === 4500 || code === 4005 || code === 'token';
