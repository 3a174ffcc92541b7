-- Whose words do not reach whom.
CREATE TABLE user_blocks (
    user    VARBINARY(128) NOT NULL COMMENT 'who blocks',
    blocked VARBINARY(128) NOT NULL,
    at      BIGINT NOT NULL COMMENT 'Unix milliseconds',
    PRIMARY KEY (user, blocked)
) ENGINE = InnoDB
