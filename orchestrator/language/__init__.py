"""The language of search spaces: what may stand in a space file, and every check of it."""
