"""Runs of a recipe that several tests look at."""

from tests.together.conftest import alone, place

__all__ = ["alone", "place"]
