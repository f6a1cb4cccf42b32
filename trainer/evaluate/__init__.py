"""Measurements on held-out real documents, and of what a token of each source is worth."""
