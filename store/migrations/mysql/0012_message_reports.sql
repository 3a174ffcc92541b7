-- Messages that members brought to the moderators' notice, as they were then.
CREATE TABLE message_reports (
    id       VARBINARY(256) NOT NULL COMMENT 'lobby/seq/reporter: one of a user about a message',
    lobby    VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq      BIGINT NOT NULL,
    user     VARBINARY(128) COMMENT 'who said it; NULL: the system',
    reporter VARBINARY(128) NOT NULL,
    at       BIGINT NOT NULL COMMENT 'Unix milliseconds',
    reason   VARBINARY(2000) COMMENT 'UTF-8',
    message  MEDIUMBLOB NOT NULL COMMENT 'the event as JSON',
    context  MEDIUMBLOB NOT NULL COMMENT 'what was said around it, as JSON',
    PRIMARY KEY (id),
    KEY message_reports_by_time (at, id)
) ENGINE = InnoDB
