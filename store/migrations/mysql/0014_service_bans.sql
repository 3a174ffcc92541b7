-- Users whom the service does not let in, on any of its lobbies. Lifted ones are removed; the audit keeps both.
CREATE TABLE service_bans (
    user   VARBINARY(128) NOT NULL PRIMARY KEY,
    at     BIGINT NOT NULL COMMENT 'Unix milliseconds',
    until  BIGINT NULL COMMENT 'Unix milliseconds; NULL: for ever',
    actor  VARBINARY(128) NOT NULL COMMENT 'who did it',
    reason TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL
) ENGINE = InnoDB
