from tests.journals import decisions

__all__ = ["decisions"]
