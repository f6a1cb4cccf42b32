"""Filters that look at one document: its length, a pattern in it, a score that came with it."""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from trainer.data.filters.config import LengthConfig, PatternConfig, ScoreConfig
from trainer.data.filters.protocol import Filter


def length(config: LengthConfig) -> Filter:
    """By words and characters."""

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        limits = (
            ("words", config.min_words, config.max_words),
            ("characters", config.min_characters, config.max_characters),
        )
        for unit, least, most in limits:
            if least is None and most is None:
                continue
            size = len(text.split()) if unit == "words" else len(text)
            if least is not None and size < least:
                return f"fewer than {least} {unit}"
            if most is not None and size > most:
                return f"more than {most} {unit}"
        return None

    return reason


def regex(config: PatternConfig) -> Filter:
    """By a regular expression; a column that is missing or null is searched as an empty text."""
    pattern = re.compile(config.pattern)

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        value = columns.get(config.column) if config.column else text
        matches = pattern.search("" if value is None else str(value)) is not None
        if matches is (config.drop == "matching"):
            return f"{'matches' if matches else 'does not match'} {config.pattern}"
        return None

    return reason


def score(config: ScoreConfig) -> Filter:
    """By a number in a column."""

    def reason(text: str, columns: Mapping[str, Any]) -> str | None:
        try:
            value = float(columns[config.column])
        except (KeyError, TypeError, ValueError):
            return f"no number in {config.column}"
        if not isfinite(value):
            return f"no number in {config.column}"
        if config.minimum is not None and value < config.minimum:
            return f"{config.column} below {config.minimum:g}"
        if config.maximum is not None and value > config.maximum:
            return f"{config.column} above {config.maximum:g}"
        return None

    return reason
