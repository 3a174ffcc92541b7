-- What was done to users by the service's own powers: who, to whom, when. What moderators do in a lobby stands in the
-- lobby's events.
CREATE TABLE audit_entries (
    id     TEXT    NOT NULL PRIMARY KEY, -- ascends with time
    at     INTEGER NOT NULL, -- Unix milliseconds
    actor  TEXT    NOT NULL,
    action TEXT    NOT NULL,
    user   TEXT    NOT NULL, -- to whom
    detail TEXT
) STRICT;
CREATE INDEX audit_entries_by_user ON audit_entries (user, id);
