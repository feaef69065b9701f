"""The training loop and what it is made of: one step, schedule, optimizer, checkpoints, precision."""
