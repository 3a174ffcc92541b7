-- Up to which entry of its journal a shard's events have gone out, so that a new owner repeats little.
CREATE TABLE published_shards (
    shard INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    n     INTEGER NOT NULL,
    PRIMARY KEY (shard)
) STRICT;
