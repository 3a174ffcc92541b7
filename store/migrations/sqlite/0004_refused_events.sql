-- Events that the database would not take into lobby_events, set aside for a human. What surrounded them is there.
CREATE TABLE refused_events (
    lobby   TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    epoch   INTEGER NOT NULL,
    at      INTEGER NOT NULL, -- Unix milliseconds
    why     TEXT NOT NULL, -- what the database said
    payload BLOB NOT NULL, -- the event as JSON
    PRIMARY KEY (lobby, seq, epoch)
) STRICT;
