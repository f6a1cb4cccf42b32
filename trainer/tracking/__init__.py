"""Tracking: the journal, and the views that follow it during a run (terminal, trackers)."""
