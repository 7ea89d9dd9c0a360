"""How a folder index is kept: its database, the scan of the folders, what changed, and the shards of features."""
