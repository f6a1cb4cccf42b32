"""Values as JSON holds them, and back: what a journal line or a saved state may contain."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np


def jsonable(value: Any) -> Any:
    """The same value in types that JSON has.

    numpy scalars and arrays become numbers and lists, dataclasses become objects, paths become text. JSON has no NaN or
    infinity: they become the texts "NaN", "Infinity" and "-Infinity", from which ``number`` (and plain ``float``) make
    the number again; null would not say which it was. TypeError for anything else.
    """
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [jsonable(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"a journal line cannot hold a {type(value).__name__}: {value!r}")


def number(value: Any) -> float:
    """A number as it was before it went into a line; NaN for a field that is missing (None)."""
    return math.nan if value is None else float(value)
