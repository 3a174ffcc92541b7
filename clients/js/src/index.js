/** The client of MLMS: see `Client`. */
export { Client } from './client.js';
export { Lobby } from './lobby.js';
export { MlmsError } from './error.js';
