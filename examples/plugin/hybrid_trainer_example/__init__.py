"""A policy, a filter and a tracker for hybrid-trainer, in a package of their own."""
