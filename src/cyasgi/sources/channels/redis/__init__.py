"""The Redis layer of channels_redis, read in batches: what was fetched and not taken is never in memory alone."""
