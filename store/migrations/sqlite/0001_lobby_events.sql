-- Every sequenced event of every lobby, once. The event's id elsewhere is `<lobby>/<seq>`.
--
-- `payload` is the event's object as a member gets it over JSON, so it can be read and searched in SQL
-- (`json_extract(payload, '$.body')`). A body that was sent as MessagePack is converted there; `packed` then holds
-- the same object as MessagePack, with the body byte for byte as it was sent, and that one counts. The other
-- columns repeat what lies in the payload, for indexes and for operators.
CREATE TABLE lobby_events (
    lobby        TEXT    NOT NULL,
    seq          INTEGER NOT NULL,
    epoch        INTEGER NOT NULL, -- of two events with one seq, the higher epoch is true
    at           INTEGER NOT NULL, -- Unix milliseconds
    kind         TEXT    NOT NULL, -- the event's name: message, joined, …
    message_kind TEXT,             -- chat, game or an application's own
    user         TEXT,             -- whom it is about, else who did it; NULL: the system
    nonce        TEXT,
    payload      TEXT    NOT NULL,
    packed       BLOB,
    PRIMARY KEY (lobby, seq)
) STRICT;
CREATE INDEX lobby_events_by_user ON lobby_events (user, at, lobby, seq);
