"""Training: the loop and what happens after a step: evaluate, decide, roll back, save."""
