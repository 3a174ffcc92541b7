-- What each player did in one lobby: the part of the statistics that can be counted again from its events.
CREATE TABLE lobby_statistics (
    lobby   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user    VARBINARY(128) NOT NULL,
    stat    VARBINARY(64) NOT NULL COMMENT 'games_finished, or a reported one',
    times   BIGINT NOT NULL,
    total   BIGINT NOT NULL,
    highest BIGINT NOT NULL COMMENT 'in one game',
    PRIMARY KEY (lobby, user, stat)
) ENGINE = InnoDB
