"""What to try next, whom to stop and what counts: pure functions of the study, and Ax in a child process."""
