"""Files that start clusters; YAML, shell and a Dockerfile only, no logic."""
