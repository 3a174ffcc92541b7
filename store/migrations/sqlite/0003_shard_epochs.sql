-- The highest epoch known of each shard: where claims go on from when the cluster's directory was lost.
CREATE TABLE shard_epochs (
    shard INTEGER NOT NULL PRIMARY KEY,
    epoch INTEGER NOT NULL
) STRICT;
