"""The published data sets, one file a set or a family of sets."""
