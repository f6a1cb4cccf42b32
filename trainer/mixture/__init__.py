"""The mixture: which sample is in which batch, as a pure function of (seed, ledger, step)."""
