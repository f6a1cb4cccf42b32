"""`python -m tests.cases.table`: kinds of faults, how many cases of each are tried, and how many hold.

A case is a test with the mark `kind("...")`, wherever it stands; one parameter of a parametrized test is one case. A
case holds unless it is marked `xfail(strict=True)`: the suite is green only if the marks are right, so that the table
needs no run. `python -m docsite` writes it into docs/results/faults.md.
"""

import contextlib
import io
from collections import Counter
from pathlib import Path

import pytest

from docsite.pages import table as markdown

ROOT = Path(__file__).parents[2]


class _Collector:
    """Takes the kind of each collected test, and whether it is expected to fail."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.held: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if (mark := item.get_closest_marker("kind")) is not None:
                (kind,) = mark.args
                self.tried[kind] += 1
                self.held[kind] += item.get_closest_marker("xfail") is None


def counted() -> _Collector:
    """The cases of all test files that have any."""
    files = [str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.kind(" in file.read_text()]
    collector, output = _Collector(), io.StringIO()
    with contextlib.redirect_stdout(output):
        code = pytest.main(
            ["--collect-only", "-q", "-W", "ignore", "--rootdir", str(ROOT), *files], plugins=[collector]
        )
    if code:
        raise SystemExit(f"the tests cannot be collected:\n{output.getvalue()}")
    return collector


def table() -> str:
    """The table in Markdown, most cases first."""
    counts = counted()
    rows = [
        [kind, str(tried), str(counts.held[kind])]
        for kind, tried in sorted(counts.tried.items(), key=lambda item: (-item[1], item[0]))
    ]
    rows.append(["**all**", str(counts.tried.total()), str(counts.held.total())])
    return markdown(["kind", "cases tried", "held"], rows)


if __name__ == "__main__":
    print(table())
