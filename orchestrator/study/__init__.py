"""A search's history: events, the journal that holds them, and the state folded from it."""
