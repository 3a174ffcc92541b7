-- Events that the database would not take into lobby_events, set aside for a human. What surrounded them is there.
CREATE TABLE refused_events (
    lobby   VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq     BIGINT NOT NULL,
    epoch   BIGINT NOT NULL,
    at      BIGINT NOT NULL COMMENT 'Unix milliseconds',
    why     TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL COMMENT 'what the database said',
    payload MEDIUMBLOB NOT NULL COMMENT 'the event as JSON',
    PRIMARY KEY (lobby, seq, epoch)
) ENGINE = InnoDB
