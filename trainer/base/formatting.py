"""Numbers and evidence as text: one wording for the terminal, the explanation and the report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE


def percent(share: int) -> str:
    """A share in millionths as percent, exactly: 330000 -> "33 %", 12600 -> "1.26 %", 400 -> "0.04 %"."""
    return f"{_trimmed(share * 100 / SHARE_ONE, 4)} %"


def percent_about(part: float) -> str:
    """A measured part of one as percent, to a tenth, or two digits where it is less: 0.0126 -> "1.3 %"."""
    value = part * 100
    return f"{_trimmed(value, 1)} %" if value >= 0.95 or value <= 0 else f"{value:.2g} %"


def share_figure(share: int) -> str:
    """A share in millionths as a part of one, exactly: 330000 -> "0.330", 400 -> "0.0004"."""
    text = _trimmed(share / SHARE_ONE, 6)
    return text if len(text) > len("0.330") else f"{share / SHARE_ONE:.3f}"


def _trimmed(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def figure(value: Any) -> str:
    """A number with four significant digits, thousands separated; "-" when it is missing or NaN."""
    number_ = number(value)
    if math.isnan(number_):
        return "-"
    if math.isinf(number_):
        return "∞" if number_ > 0 else "-∞"
    if number_ == int(number_) and abs(number_) < 1e15:
        return f"{int(number_):,}"
    return f"{number_:,.0f}" if abs(number_) >= 10_000 else f"{number_:.4g}"


def plus_minus(value: Any, standard_error: Any) -> str:
    """Both to the digits that the standard error supports: "4.312 ± 0.021"; only the value when it has no error."""
    error = number(standard_error)
    if not math.isfinite(error) or error <= 0 or not math.isfinite(number(value)):
        return figure(value)
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{number(value):.{digits}f} ± {error:.{digits}f}"


def duration(seconds: float) -> str:
    """4000 -> "1 h 07 min", 75 -> "1 min 15 s"."""
    if not math.isfinite(seconds):
        return "-"
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.0f} s"


def size(num_bytes: float) -> str:
    """512 -> "512 bytes", 1536000 -> "1.54 MB", 2e12 -> "2 TB"."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes:.0f} bytes"


def shares_in_words(shares: Mapping[str, int], separator: str = ", ") -> str:
    """All sources with their shares: "wikipedia 40 %, written 60 %"."""
    return separator.join(f"{source} {percent(share)}" for source, share in shares.items())


def changes_in_words(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Only the sources whose share differs: "written 25 % -> 37.5 %"; "nothing" when none does."""
    changed = [source for source in after if before.get(source, 0) != after[source]]
    parts = [f"{source} {percent(before.get(source, 0))} -> {percent(after[source])}" for source in changed]
    return ", ".join(parts) or "nothing"


def evidence_in_words(evidence: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, value) for every leaf of nested evidence, names joined by spaces.

    A value with its standard error next to it (``gap`` and ``gap_standard_error``, or ``value`` and
    ``standard_error``) is one entry: "0.31 ± 0.06".
    """
    for key, value in evidence.items():
        name = key.replace("_", " ")
        error_key = "standard_error" if key == "value" else f"{key}_standard_error"
        if isinstance(value, Mapping):
            for inner, text in evidence_in_words(value):
                yield (name if inner == "value" else f"{name} {inner}"), text
        elif error_key in evidence:
            yield name, plus_minus(value, evidence[error_key])
        elif not _is_error_of_another(key, evidence):
            yield name, _leaf(value)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as indented lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _is_error_of_another(key: str, evidence: Mapping[str, Any]) -> bool:
    named = key.removesuffix("_standard_error")
    return (named != key and named in evidence) or (key == "standard_error" and "value" in evidence)


def _leaf(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_leaf(part) if not isinstance(part, Mapping) else str(dict(part)) for part in value) or "none"
    return str(value)
