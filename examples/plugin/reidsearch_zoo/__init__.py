"""Plug-ins for reidsearch, as an example: `pyproject.toml` names them, and spaces use them as `plugin:NAME`."""
