-- Who was awarded what, once.
CREATE TABLE player_achievements (
    user        VARBINARY(128) NOT NULL,
    achievement VARBINARY(64) NOT NULL,
    at          BIGINT NOT NULL COMMENT 'Unix milliseconds of the event that earned it',
    announced   TINYINT NOT NULL COMMENT '0: still to be published',
    PRIMARY KEY (user, achievement),
    KEY player_achievements_by_announced (announced, at)
) ENGINE = InnoDB
