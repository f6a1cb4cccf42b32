"""Decisions of ``priced`` in a world of the laboratory."""

from tests.journals import decisions

__all__ = ["decisions"]
