-- Messages that members brought to the moderators' notice, as they were then.
CREATE TABLE message_reports (
    id       TEXT NOT NULL, -- lobby/seq/reporter: one of a user about a message
    lobby    TEXT NOT NULL,
    seq      INTEGER NOT NULL,
    user     TEXT, -- who said it; NULL: the system
    reporter TEXT NOT NULL,
    at       INTEGER NOT NULL, -- Unix milliseconds
    reason   TEXT,
    message  BLOB NOT NULL, -- the event as JSON
    context  BLOB NOT NULL, -- what was said around it, as JSON
    PRIMARY KEY (id)
) STRICT;

CREATE INDEX message_reports_by_time ON message_reports (at, id);
