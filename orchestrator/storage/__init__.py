"""Storage that is not a folder all machines see: object stores, kept equal to a folder on every machine's own disk."""
