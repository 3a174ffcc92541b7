-- Up to which event a lobby's history was purged; gaps below are no damage.
CREATE TABLE purged_lobbies (
    lobby TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (lobby)
) STRICT;
