/**
 * Socket.IO, the peer that most people would use: a room a lobby, WebSocket only, an acknowledgement for each message.
 *
 *   node socketio.mjs PORT
 */
import { createServer } from 'node:http';
import { Server } from 'socket.io';

const http = createServer();
const io = new Server(http, { transports: ['websocket'], perMessageDeflate: false, serveClient: false });

io.on('connection', (socket) => {
  const { lobby, user } = socket.handshake.query;
  socket.join(lobby);
  socket.on('send', (kind, body, ok) => {
    ok({});
    io.to(lobby).emit('message', { lobby, kind, from: user, at: 0, body });
  });
});

http.listen(Number(process.argv[2]), '127.0.0.1');
