"""Files of any kind: where they are found, how they are fetched, unpacked, read as tables and spooled."""
