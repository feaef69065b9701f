"""How searches are shown to people and to programs on the command line."""
