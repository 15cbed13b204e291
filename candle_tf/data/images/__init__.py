"""Image files: decoded, scanned for damage, kept in a store."""
