"""How much machine-written text a source called real holds, counted before training."""
