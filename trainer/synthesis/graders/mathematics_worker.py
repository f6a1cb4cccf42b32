"""Compares answers with references in a process of its own, which may hang or run out of memory without harm.

A program, not a module: run by ``mathematics``. Reads a JSON line [text, reference, limit_s] at a time, and answers
with one: true, false, or a text that says why it cannot tell.
"""

import json
import re
import resource
import sys
from typing import Any

_MEMORY = 4 << 30
_MARK = re.compile(r"####|^\s*A:|\banswer(?: is)?:?", re.IGNORECASE | re.MULTILINE)  # what stands before a final answer


def _parsed(text: str, limit_s: int) -> list[Any]:
    """What math-verify reads: of what follows the last mark of a final answer, else of all."""
    from math_verify import parse

    marks = list(_MARK.finditer(text))
    found: list[Any] = (
        parse(text[marks[-1].end() :], parsing_timeout=limit_s) if marks and "\\boxed" not in text else []
    )
    return found or list(parse(text, parsing_timeout=limit_s))


def _compared(text: str, reference: str, limit_s: int) -> bool | str:
    from math_verify import verify

    expected = _parsed(reference, limit_s)
    if not expected:
        return "the reference answer cannot be read"
    given = _parsed(text, limit_s)
    return bool(given) and bool(verify(expected, given, timeout_seconds=limit_s))


def _main() -> None:
    import math_verify  # noqa: F401 - seconds, before the first answer is timed

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    sys.stdout.write('"ready"\n')
    sys.stdout.flush()
    for line in sys.stdin:
        try:
            answer: bool | str = _compared(*json.loads(line))
        except MemoryError:
            answer = "out of memory"
        except Exception as error:  # noqa: BLE001 - whatever a parser says of what a model wrote
            answer = f"cannot be compared: {type(error).__name__}"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
