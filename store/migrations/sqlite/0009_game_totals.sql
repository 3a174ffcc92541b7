-- What was reported in games that still run.
CREATE TABLE game_totals (
    lobby TEXT NOT NULL,
    game  INTEGER NOT NULL,
    stat  TEXT NOT NULL,
    user  TEXT NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (lobby, game, stat, user)
) STRICT;
