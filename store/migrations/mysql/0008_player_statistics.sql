-- The sum of lobby_statistics over a player's lobbies.
CREATE TABLE player_statistics (
    user    VARBINARY(128) NOT NULL,
    stat    VARBINARY(64) NOT NULL,
    times   BIGINT NOT NULL,
    total   BIGINT NOT NULL,
    highest BIGINT NOT NULL COMMENT 'in one game',
    PRIMARY KEY (user, stat),
    KEY player_statistics_by_stat (stat, user)
) ENGINE = InnoDB
