-- Up to which entry of its journal a shard's events have gone out, so that a new owner repeats little.
CREATE TABLE published_shards (
    shard INT NOT NULL,
    epoch BIGINT NOT NULL,
    n     BIGINT NOT NULL,
    PRIMARY KEY (shard)
) ENGINE = InnoDB
