"""What is tried next, what stops and what counts: pure functions of the history, and the process that asks Ax."""
