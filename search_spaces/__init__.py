"""Search spaces that ship with reidsearch; YAML only, no logic."""
