-- Users whom the service does not let in, on any of its lobbies. Lifted ones are removed; the audit keeps both.
CREATE TABLE service_bans (
    user   TEXT    NOT NULL PRIMARY KEY,
    at     INTEGER NOT NULL, -- Unix milliseconds
    until  INTEGER,          -- Unix milliseconds; NULL: for ever
    actor  TEXT    NOT NULL, -- who did it
    reason TEXT
) STRICT;
