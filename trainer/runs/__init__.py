"""Runs: a run folder, and a run built from a recipe, resumed, watched and brought to its outcome."""
