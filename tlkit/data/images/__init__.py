"""Images in folders and in tables."""
