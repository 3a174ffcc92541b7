-- The sum of lobby_statistics over a player's lobbies.
CREATE TABLE player_statistics (
    user    TEXT NOT NULL,
    stat    TEXT NOT NULL,
    times   INTEGER NOT NULL,
    total   INTEGER NOT NULL,
    highest INTEGER NOT NULL, -- in one game
    PRIMARY KEY (user, stat)
) STRICT;

CREATE INDEX player_statistics_by_stat ON player_statistics (stat, user);
