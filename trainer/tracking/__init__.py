"""Tracking: the journal, and the views that follow it while a run goes on (terminal, W&B)."""
