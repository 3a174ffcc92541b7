-- What was done to users by the service's own powers: who, to whom, when. What moderators do in a lobby stands in the
-- lobby's events.
CREATE TABLE audit_entries (
    id     VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY COMMENT 'ascends with time',
    at     BIGINT NOT NULL COMMENT 'Unix milliseconds',
    actor  VARBINARY(128) NOT NULL,
    action VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    user   VARBINARY(128) NOT NULL COMMENT 'to whom',
    detail TEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
    KEY audit_entries_by_user (user, id)
) ENGINE = InnoDB
