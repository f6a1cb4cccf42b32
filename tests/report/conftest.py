"""Run folders as a run leaves them, for every test of what reads them."""

from tests.journals import decisions, tell

__all__ = ["decisions", "tell"]
