"""Keeps of the answers to one problem those that take different ways, and not too many.

Rejection sampling asks for many answers and keeps the right ones; what helps is how many different ways of reasoning
are among them, not how many texts (Yuan et al. 2023, arXiv:2308.01825). Two answers take the same way where they write
the same equations in the same order, whatever the words. Without a limit easy problems, which are answered rightly
every time, would crowd out the hard ones.
"""

import re
from collections import Counter
from collections.abc import Sequence

from trainer.data.filters.duplicates import words_hash
from trainer.synthesis.context import RoundContext
from trainer.synthesis.funnel import Funnel, Reason
from trainer.synthesis.rows import Row

_NUMBER = r"-?[$€£]?\d[\d,]*(?:\.\d+)?%?"
_EQUATION = re.compile(rf"\(*{_NUMBER}\)*(?:\s*[-+*/x\u00d7\u00f7^]\s*\(*{_NUMBER}\)*)+\s*=\s*{_NUMBER}")
_DECORATION = str.maketrans({"\u00d7": "*", "x": "*", "\u00f7": "/", "$": "", "€": "", "£": "", ",": "", " ": ""})


def equations(text: str) -> tuple[str, ...]:
    """The equations between numbers in a text, in order, without what only decorates them; a step that is written
    twice in a row, as `8*2=<<8*2=16>>16`, is one.
    """
    found = ("".join(match.split()).translate(_DECORATION) for match in _EQUATION.findall(text))
    steps: list[str] = []
    for step in found:
        if not steps or steps[-1] != step:
            steps.append(step)
    return tuple(steps)


def drop_same_paths(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops the answers to a real row that repeat the equations of an earlier one, and those above the limit."""
    limits = context.config.paths
    if limits is None:
        return list(rows)
    paths: set[tuple[str, object]] = set()
    counts: Counter[str] = Counter()

    def dropped_by(row: Row) -> Reason | None:
        problem, answer = f"{row['source']}:{row['source_id']}", row["answer"] or row["text"]
        path = (problem, equations(answer) or words_hash(answer))
        if limits.distinct and path in paths:
            return "paths", "the same equations as another answer"
        if limits.most_per_row is not None and counts[problem] >= limits.most_per_row:
            return "paths", "enough answers to this row"
        paths.add(path)
        counts[problem] += 1
        return None

    return funnel.keep(rows, dropped_by)
