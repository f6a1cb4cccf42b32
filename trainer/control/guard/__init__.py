"""The guard: evidence over time that something is wrong, and what is done about it."""
