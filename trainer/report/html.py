"""The report: one HTML file that needs no server, no network and no other file, made from run folders alone.

It reads journal, outcome and recipe as they are there, so it can be made while the run is going, after a crash, or
years later; several runs are compared. plotly.js is inside once (4.8 MB, the same in every report); a content security
policy forbids the page to load anything. Whatever comes from data is escaped: by jinja2 in the page, by \\u003c in the
charts' JSON.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from trainer.base import atomic
from trainer.base.errors import UserError
from trainer.report import charts
from trainer.report.history import History, read_history
from trainer.report.plotly_figures import Figure
from trainer.report.real_data import real_note, real_rows
from trainer.report.rounds import generations, grader_rows, reason_rows, round_charts, round_rows, shown_rows
from trainer.report.sections import (
    account_rows,
    cards,
    decision_rows,
    environment_rows,
    event_rows,
    quarantine_of,
    slice_rows,
    source_rows,
)
from trainer.report.titles import title
from trainer.tracking.guard_verdict import guard_verdict
from trainer.tracking.schema import DecisionLine, SampleLine, StartLine

TEMPLATE = "report.html.j2"
MAX_ROWS = 400  # of a table of decisions; a run that decided more often shows the last ones
TALL = ("budget", "harm", "slice-harm", "slices")  # two plots in one, or a legend of many lines
STATE_CLASSES = {"finished": "good", "stopped-by-guard": "bad", "failed": "bad", "interrupted": "warn"}


def write_report(run_folders: Sequence[Path], output: Path) -> None:
    """Write the report on these runs to ``output``. UserError when a folder holds no journal, or none is given."""
    import jinja2

    if not run_folders:
        raise UserError("a report needs at least one run folder")
    histories = dict(zip(_labels(run_folders), map(read_history, run_folders), strict=True))
    drawn: dict[str, Figure] = {}
    runs = [_run(label, history, f"run{index}", drawn) for index, (label, history) in enumerate(histories.items())]
    if len(histories) > 1:
        across = {"held-out": charts.compared(histories), "synthetic": charts.compared_synthetic(histories)}
        drawn |= {f"compared-{name}": chart for name, chart in across.items() if chart is not None}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trainer.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(
        title=", ".join(histories), runs=runs, compared=[name for name in drawn if name.startswith("compared-")]
    )
    # The library and the figures go in last: they are megabytes of trusted text that no template should look at.
    library = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    for mark, text in (("__PLOTLY__", library), ("__FIGURES__", _for_script(drawn))):
        before, _, after = page.rpartition(mark)  # the last one is the template's, whatever a text above it says
        page = before + text + after
    atomic.write_text(output, page, durable=False)


def _for_script(value: Any) -> str:
    """JSON that can stand inside a script element: no "<" can end it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _labels(folders: Sequence[Path]) -> Iterator[str]:
    """A name for each run: that of its folder, with its parent's where two are alike."""
    names = Counter(folder.resolve().name for folder in folders)
    uses: Counter[str] = Counter()
    for folder in map(Path.resolve, folders):
        label = folder.name if names[folder.name] == 1 else f"{folder.parent.name}/{folder.name}"
        uses[label] += 1
        yield label if uses[label] == 1 else f"{label} ({uses[label]})"


def _run(label: str, run: History, key: str, drawn: dict[str, Figure]) -> dict[str, Any]:
    """All that the page shows of one run; its charts go into ``drawn``."""
    figures = charts.figures(run)
    drawn |= {f"{key}-{name}": chart for name, chart in figures.items()}
    rounds = generations(run)
    of_rounds = round_charts(rounds)
    drawn |= {f"{key}-{name}": chart for name, chart in of_rounds.items()}
    decisions = decision_rows(run)
    verdict = guard_verdict([*run.of(StartLine), *run.of(DecisionLine)]) if run.last_step else None
    guard = [("Guard", verdict.short, "acted, silent, or could not see")] if verdict else []
    return {
        "key": key,
        "label": label,
        "name": run.name,
        "state": run.state,
        "state_class": STATE_CLASSES.get(run.state, "warn"),
        "reason": run.reason,
        "verdict": verdict,
        "traceback": str((run.outcome or {}).get("traceback") or ""),
        "cards": [*cards(run), *guard],
        "charts": [(f"{key}-{name}", *title(name), name in TALL) for name in figures],
        "sources": list(source_rows(run)),
        "accounts": list(account_rows(run)),
        "quarantine": quarantine_of(run),
        "real": list(real_rows(run)),
        "real_note": real_note(run),
        "slices": list(slice_rows(run)),
        "moves": [row for row in decisions if row["action"] != "keep"][-MAX_ROWS:],
        "keeps": [row for row in decisions if row["action"] == "keep"][-MAX_ROWS:],
        "num_decisions": len(decisions),
        "verdicts": sorted(Counter(row["verdict"] for row in decisions).items()),
        "events": list(event_rows(run)),
        "round_charts": [(f"{key}-{name}", *title(name)) for name in of_rounds],
        "rounds": list(round_rows(run, rounds)),
        "reasons": list(reason_rows(rounds)),
        "graders": list(grader_rows(rounds)),
        "shown": shown_rows(rounds),
        "samples": [(line.prompt, line.text) for line in run.of(SampleLine)],
        "environment": list(environment_rows(run)),
        "recipe": run.recipe,
    }
