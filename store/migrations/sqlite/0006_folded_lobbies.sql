-- Up to which event a lobby's games are in the statistics. The row is also the lock of whoever counts.
CREATE TABLE folded_lobbies (
    lobby TEXT NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (lobby)
) STRICT;
