"""The ways to walk a plan of shards: one process, those of a launcher, shares on several machines, Ray."""
