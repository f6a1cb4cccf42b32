"""What a run tells the world: the journal it writes, and the views of it (terminal, W&B, report, explanation)."""
