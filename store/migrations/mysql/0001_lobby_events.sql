-- Every sequenced event of every lobby, once. The event's id elsewhere is `<lobby>/<seq>`.
--
-- `payload` is the event's object as a member gets it over JSON, so it can be read and searched in SQL
-- (`JSON_VALUE(payload, '$.body')`). A body that was sent as MessagePack is converted there; `packed` then holds
-- the same object as MessagePack, with the body byte for byte as it was sent, and that one counts. The other
-- columns repeat what lies in the payload, for indexes and for operators.
--
-- Ids compare byte by byte: under the defaults `Arena` equals `arena`, and `bob` equals `bob ` even in utf8mb4_bin.
CREATE TABLE lobby_events (
    lobby        VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    seq          BIGINT         NOT NULL,
    epoch        BIGINT         NOT NULL COMMENT 'of two events with one seq, the higher epoch is true',
    at           BIGINT         NOT NULL COMMENT 'Unix milliseconds',
    kind         VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'message, joined, ...',
    message_kind VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'chat, game or an own one',
    user         VARBINARY(128) NULL COMMENT 'whom it is about, else who did it; NULL: the system',
    nonce        VARBINARY(36)  NULL,
    payload      MEDIUMTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    packed       MEDIUMBLOB     NULL,
    PRIMARY KEY (lobby, seq),
    KEY lobby_events_by_user (user, at, lobby, seq)
) ENGINE = InnoDB
