"""Measurements of the hot paths against other loaders and loops, as ratios from one alternated run.

The clock of a shared machine moves by a factor of two within minutes, so an absolute figure says little. Here whatever
is compared takes turns (A B A B ...), each turn gives one ratio, and the median and the range of the ratios are
reported. `python -m benchmarks [NAME ...]` runs them; no test asserts a time.
"""
