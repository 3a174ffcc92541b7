-- The highest epoch known of each shard: where claims go on from when the cluster's directory was lost.
CREATE TABLE shard_epochs (
    shard INT    NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL
) ENGINE = InnoDB
