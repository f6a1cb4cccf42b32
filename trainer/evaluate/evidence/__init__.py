"""Evidence about sources, measured on the model in training: source value, gradient alignment, forgetting."""
