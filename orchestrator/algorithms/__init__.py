"""Decisions as pure functions of the study: the next point, which trial stops, which is best. Ax runs in a child."""
