/**
 * uWebSockets.js, the fastest peer: as much of the protocol as the load test needs, `publish` to a topic a lobby, which
 * gathers what one turn of its loop brings.
 *
 *   node uws.mjs PORT
 */
import uws from '@trufflesuite/uws-js-unofficial';

const app = uws.App();

function userOf(authorization) {
  const claims = Buffer.from(authorization.split('.')[1] ?? '', 'base64url').toString();
  return claims ? JSON.parse(claims).sub : 'nobody';
}

app.ws('/ws', {
  compression: uws.DISABLED,
  idleTimeout: 0,
  maxBackpressure: 16 * 1024 * 1024,
  upgrade(response, request, context) {
    const lobby = new URLSearchParams(request.getQuery()).get('lobby') ?? 'none';
    const user = userOf(request.getHeader('authorization'));
    const key = request.getHeader('sec-websocket-key');
    response.upgrade({ lobby, user }, key, 'mlms.v1.json', '', context);
  },
  open(socket) {
    const { lobby, user } = socket;
    const state = { settings: {}, host: null, members: [], members_total: 0, game: null, messages: [] };
    socket.send(JSON.stringify({ ev: 'welcome', session: '1', user, node: 'peer', heartbeat_ms: 25_000, limits: {}, now: 0 }));
    socket.send(JSON.stringify({ ev: 'snapshot', lobby, epoch: 1, seq: 0, state }));
    socket.subscribe(lobby);
  },
  message(socket, bytes) {
    const { id, op, kind, body } = JSON.parse(Buffer.from(bytes).toString());
    if (op !== 'send') return;
    const { lobby, user } = socket;
    socket.send(`{"id":${id ?? 0},"ok":{}}`);
    app.publish(lobby, JSON.stringify({ ev: 'message', lobby, kind, from: user, at: 0, body }));
  },
});

app.listen('127.0.0.1', Number(process.argv[2]), (listening) => {
  if (!listening) process.exit(1);
});
