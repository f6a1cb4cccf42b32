"""The page reference/journal.md: every kind of line and its fields, from the records that write them."""

from collections.abc import Iterator, Mapping
from typing import Any

from docsite.pages import code, table
from docsite.recipe_reference import shown_type
from trainer.tracking.record import JournalLine, fields_of, types_of
from trainer.tracking.schema import LINES

HEAD = """# Journal

<!-- Written by `python -m docsite`; edit `trainer/tracking/schema.py` instead. -->

`journal.jsonl` in the run folder holds one JSON object per line. Each has a `kind` and the `step` after which it was
written. A metric is the name under which trackers (W&B, TensorBoard) plot a field; `{}` in it stands for the key.

```python
from pathlib import Path

from trainer.tracking.schema import read_journal

for line in read_journal(Path("runs/quickstart/journal.jsonl")):
    print(line.step, line.kind)
```
"""


def page() -> str:
    """The page."""
    overview = table(["kind", "is"], [[f"[`{kind}`](#{kind})", _about(line)] for kind, line in LINES.items()])
    return "\n\n".join([HEAD.strip(), overview, *map(_section, LINES.values())]) + "\n"


def _about(record: type) -> str:
    return " ".join((record.__doc__ or "").split("\n\n")[0].split())


def _section(line: type[JournalLine]) -> str:
    rows = table(["field", "type", "unit", "metric", "meaning"], list(_rows(line)))
    return f"## {line.kind}\n\n{_about(line)}\n\n{rows}"


def _rows(record: type, prefix: str = "") -> Iterator[list[str]]:
    types = types_of(record)
    for name, about in fields_of(record).items():
        if about.inline:
            yield from _rows(types[name], prefix)
            continue
        metrics = about.metric.values() if isinstance(about.metric, Mapping) else [about.metric]
        names = ", ".join(code(metric) for metric in metrics if metric)
        yield [code(prefix + name), _type(types[name]), about.unit, names, about.description]


def _type(kind: Any) -> str:
    return shown_type(kind).replace("section", "object")
