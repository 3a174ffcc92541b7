/** The client of MLMS: see `Client`. */
export { Client, makeNonce } from './client.js';
export { Lobby } from './lobby.js';
export { MlmsError } from './error.js';

/** @typedef {import('./client.js').ClientOptions} ClientOptions */
/** @typedef {import('./client.js').JoinOptions} JoinOptions */
/** @typedef {import('./lobby.js').Member} Member */
/** @typedef {import('./wire.js').LobbyEvents} LobbyEvents */
/** @typedef {import('./wire.js').ClientEvents} ClientEvents */
/** @typedef {import('./wire.js').Message} Message */
/** @typedef {import('./wire.js').Settings} Settings */
