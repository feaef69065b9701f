"""Storages with a URI: a cache on every machine, journal segments, trial files and the lease."""
