-- A lobby's whole state after an event, from which it returns when no node remembers it.
CREATE TABLE lobby_snapshots (
    lobby  TEXT    NOT NULL PRIMARY KEY,
    seq    INTEGER NOT NULL, -- the last event in the state
    epoch  INTEGER NOT NULL,
    at     INTEGER NOT NULL, -- Unix milliseconds of the last activity
    closed INTEGER NOT NULL,
    state  BLOB    NOT NULL  -- the lobby node's own format, which carries its version
) STRICT;
CREATE INDEX lobby_snapshots_by_activity ON lobby_snapshots (closed, at, lobby);
