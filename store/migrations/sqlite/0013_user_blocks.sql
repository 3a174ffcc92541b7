-- Whose words do not reach whom.
CREATE TABLE user_blocks (
    user    TEXT NOT NULL, -- who blocks
    blocked TEXT NOT NULL,
    at      INTEGER NOT NULL, -- Unix milliseconds
    PRIMARY KEY (user, blocked)
) STRICT;
