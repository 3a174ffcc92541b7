-- A lobby's whole state after an event, from which it returns when no node remembers it.
CREATE TABLE lobby_snapshots (
    lobby  VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    seq    BIGINT   NOT NULL COMMENT 'the last event in the state',
    epoch  BIGINT   NOT NULL,
    at     BIGINT   NOT NULL COMMENT 'Unix milliseconds of the last activity',
    closed TINYINT  NOT NULL,
    state  LONGBLOB NOT NULL COMMENT 'the format of the lobby node, which carries its version',
    KEY lobby_snapshots_by_activity (closed, at, lobby)
) ENGINE = InnoDB
