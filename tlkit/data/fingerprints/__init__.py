"""WiFi fingerprints."""
