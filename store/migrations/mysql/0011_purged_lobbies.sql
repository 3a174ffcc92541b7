-- Up to which event a lobby's history was purged; gaps below are no damage.
CREATE TABLE purged_lobbies (
    lobby VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq   BIGINT NOT NULL,
    PRIMARY KEY (lobby)
) ENGINE = InnoDB
