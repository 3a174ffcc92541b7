-- Who was awarded what, once.
CREATE TABLE player_achievements (
    user        TEXT NOT NULL,
    achievement TEXT NOT NULL,
    at          INTEGER NOT NULL, -- Unix milliseconds of the event that earned it
    announced   INTEGER NOT NULL, -- 0: still to be published
    PRIMARY KEY (user, achievement)
) STRICT;

CREATE INDEX player_achievements_by_announced ON player_achievements (announced, at);
