-- Up to which event a lobby's games are in the statistics. The row is also the lock of whoever counts.
CREATE TABLE folded_lobbies (
    lobby VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (lobby)
) ENGINE = InnoDB
