"""Runs a search on Ray Tune: the session, the searcher, attempts and their supervision."""
