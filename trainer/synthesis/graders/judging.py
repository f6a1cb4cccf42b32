"""What a judge is asked, and how its answer is read."""

import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any, Literal

_SCALE = (1.0, 10.0)


def scores_prompt(text: str, source: str | None, aspects: Mapping[str, str]) -> str:
    """Asks for a score of each aspect, as JSON."""
    listed = "\n".join(f"- {name}: {meaning}" for name, meaning in aspects.items())
    example = json.dumps(dict.fromkeys(aspects, "N")).replace('"N"', "N")
    about = f"Source:\n{source}\n\n" if source else ""
    return (
        f"Grade a text{' that was made from a source' if source else ''}. Give each aspect a whole number N from 1 "
        f"(very bad) to 10 (very good):\n{listed}\n\n{about}Text to grade:\n{text}\n\n"
        f"Answer with one JSON object and nothing else: {example}"
    )


def pair_prompt(first: str, second: str, aspects: Mapping[str, str]) -> str:
    """Asks which of two texts is better."""
    listed = "\n".join(f"- {name}: {meaning}" for name, meaning in aspects.items())
    return (
        f"Which of two texts is better? What counts:\n{listed}\n\nText A:\n{first}\n\nText B:\n{second}\n\n"
        'Answer with one JSON object and nothing else: {"better": "A"}, {"better": "B"}, or {"better": "tie"}'
    )


def scores_in(answer: str, aspects: Mapping[str, str]) -> dict[str, float] | None:
    """A score in [1, 10] for each aspect; None where the answer has not all of them.

    Taken are the first JSON object that has them, with words around it or not, else lines such as ``accuracy: 7/10``.
    """
    for value in _objects(answer):
        scores = _scores_of(value, aspects)
        if scores is not None:
            return scores
    lines = {
        name: match[1]
        for name in aspects
        if (
            match := re.search(rf"\b{re.escape(name)}\b[\"'*]*\s*[:=-]\s*[\"'*]*(\d+(?:\.\d+)?)", answer, re.IGNORECASE)
        )
    }
    return _scores_of(lines, aspects)


def _objects(answer: str) -> Iterator[Mapping[str, Any]]:
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", answer):
        try:
            value, _ = decoder.raw_decode(answer, match.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _scores_of(value: Mapping[str, Any], aspects: Mapping[str, str]) -> dict[str, float] | None:
    by_name = {str(key).strip().lower(): number for key, number in value.items()}
    scores = {name: _number(by_name.get(name.lower())) for name in aspects}
    whole = {name: score for name, score in scores.items() if score is not None}
    return whole if len(whole) == len(aspects) else None


def _number(value: Any) -> float | None:
    """A score that is a number, a text such as "7" or "7/10", or an object with one; None for anything else."""
    if isinstance(value, dict):
        return _number(next((value[key] for key in ("score", "value", "rating") if key in value), None))
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*10)?\s*", value)
        value = float(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return float(value) if _SCALE[0] <= value <= _SCALE[1] else None


def choice_in(answer: str) -> Literal["first", "second", "tie"] | None:
    """Which of two texts an answer chooses; None where it does not say."""
    for value in _objects(answer):
        chosen = _CHOICES.get(str(value.get("better", "")).strip().lower())
        if chosen is not None:
            return chosen
    named = {match.lower() for match in re.findall(r"\b(?:[Tt]ext|[Aa]nswer)\s+(A|B)\b", answer)}
    bare = answer.strip().strip(".\"'*").lower()
    return _CHOICES.get(bare) or (_CHOICES.get(named.pop()) if len(named) == 1 else None)


_CHOICES: Mapping[str, Literal["first", "second", "tie"]] = {
    "a": "first", "b": "second", "tie": "tie", "text a": "first", "text b": "second",
}  # fmt: skip
