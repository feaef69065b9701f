"""Errors, processes, paths and texts: what every package needs and that needs none of them."""
