"""Evaluations on held-out real documents, and measurements of the sources: value, gradient alignment, forgetting."""
