"""The one mechanism of all stores: shards that prove themselves, in keyed folders or alone."""
