"""Whether a machine can run searches."""
