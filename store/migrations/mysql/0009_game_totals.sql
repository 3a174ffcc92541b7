-- What was reported in games that still run.
CREATE TABLE game_totals (
    lobby VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    game  BIGINT NOT NULL,
    stat  VARBINARY(64) NOT NULL,
    user  VARBINARY(128) NOT NULL,
    total BIGINT NOT NULL,
    PRIMARY KEY (lobby, game, stat, user)
) ENGINE = InnoDB
