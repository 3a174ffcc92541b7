/**
 * The shapes of the protocol, for the types alone: nothing here runs, and nothing imports it when it runs.
 *
 * @typedef {object} Settings
 * @property {string} [name]
 * @property {number} [capacity]
 * @property {'public' | 'unlisted' | 'private'} [visibility]
 * @property {boolean} [close_when_empty]
 * @property {boolean} [join_in_progress]
 * @property {'server' | 'host' | 'members'} [reports]
 * @property {boolean} [locked] it has a password; set by giving a `password`
 * @property {string | null} [password] given only, never told
 * @property {boolean} [invite_only]
 * @property {number} [slow_mode_s]
 * @property {string[]} [word_filter]
 * @property {'oldest' | 'listed' | 'manual'} [host_policy]
 * @property {Record<string, any>} [metadata]
 *
 * @typedef {'host' | 'moderator' | 'player' | 'spectator'} Role
 *
 * @typedef {object} Sequenced
 * @property {string} ev
 * @property {string} lobby
 * @property {number} epoch
 * @property {number} seq
 * @property {number} at Unix milliseconds
 *
 * @typedef {object} Unsequenced
 * @property {string} ev
 * @property {string} lobby
 *
 * @typedef {{ev: 'message', lobby: string, kind: string, from: string | null, at: number, body: any, epoch?: number, seq?: number, nonce?: string, key?: string}} Message
 * @typedef {Sequenced & {user: string, name: string, role: Role}} Joined
 * @typedef {Sequenced & {user: string, by?: string, reason?: string, until?: number}} Concerns
 * @typedef {Sequenced & {user: string | null, by?: string}} HostChanged
 * @typedef {Sequenced & {by?: string, settings?: Settings, user?: string, role?: Role, attributes?: Record<string, any>}} Updated
 * @typedef {Sequenced & {user: string, ready: boolean}} Ready
 * @typedef {Sequenced & {game: number, by?: string}} GameStarted
 * @typedef {Sequenced & {game: number, user: string, stat: string, amount: number, by?: string}} Reported
 * @typedef {Sequenced & {game: number, by?: string, players: string[], results?: any}} GameFinished
 * @typedef {Sequenced & {of: number, by: string, body: any}} Edited
 * @typedef {Sequenced & {of: number, by: string}} Deleted
 * @typedef {Sequenced & {of: number, user: string, emoji: string}} Reacted
 * @typedef {Sequenced & {by?: string, reason?: string}} Closed
 *
 * @typedef {{seq: number, epoch?: number, at?: number, dup?: boolean}} Sent without `seq` for what is not durable
 *
 * What a Lobby emits, by name. `*` gives every event, its name first.
 * @typedef {{
 *   message: [Message], joined: [Joined], left: [Concerns], host_changed: [HostChanged], updated: [Updated],
 *   ready: [Ready], game_started: [GameStarted], reported: [Reported], game_finished: [GameFinished],
 *   kicked: [Concerns], banned: [Concerns], unbanned: [Concerns], muted: [Concerns], unmuted: [Concerns],
 *   edited: [Edited], deleted: [Deleted], reacted: [Reacted], closed: [Closed],
 *   away: [Unsequenced & {user: string}], back: [Unsequenced & {user: string}], typing: [Unsequenced & {user: string}],
 *   read: [Unsequenced & {user: string, read: number, unread: number}], saved: [Unsequenced & {seq: number}], caught_up: [Unsequenced & {seq: number}], lag: [Unsequenced & {dropped: number}],
 *   snapshot: [import('./lobby.js').Lobby], resumed: [{missed: number}], gap: [{after: number, got: number}],
 *   status: [import('./lobby.js').LobbyStatus], ended: [import('./error.js').MlmsError],
 * }} LobbyEvents
 *
 * What a Client emits, by name.
 * @typedef {{
 *   state: [{state: import('./client.js').State, reason: import('./client.js').Reason, retryAt: number | undefined}],
 *   welcome: [{session: string, user: string, node: string, heartbeat_ms: number, limits: Record<string, number>, now: number}],
 *   bye: [{code: number, reason: string, reconnect: 'now' | 'window' | 'never', window_ms?: [number, number]}],
 *   notice: [{code: 'degraded' | 'recovered' | 'maintenance', message: string}],
 *   achievement: [{user: string, achievement: string, at: number}],
 *   error: [import('./error.js').MlmsError],
 *   event: [any, import('./lobby.js').Lobby],
 * }} ClientEvents
 */
export {};
