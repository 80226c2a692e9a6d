"""Data larger than memory, in shards of many samples."""
