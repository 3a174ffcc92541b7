/** The client of MLMS: see `Client`. */
export { Client, makeNonce } from './client.js';
export { Lobby } from './lobby.js';
export { MlmsError } from './error.js';
