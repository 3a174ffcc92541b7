-- What each player did in one lobby: the part of the statistics that can be counted again from its events.
CREATE TABLE lobby_statistics (
    lobby   TEXT NOT NULL,
    user    TEXT NOT NULL,
    stat    TEXT NOT NULL, -- games_finished, or a reported one
    times   INTEGER NOT NULL,
    total   INTEGER NOT NULL,
    highest INTEGER NOT NULL, -- in one game
    PRIMARY KEY (lobby, user, stat)
) STRICT;
