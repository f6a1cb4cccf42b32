"""The report: one HTML file that needs no server, no network and no other file, made from run folders alone.

It reads journal, outcome and recipe as they lie there, so it can be made while the run goes on, after a crash, or
years later; several runs are compared. plotly.js is inside once (4.8 MB, the same in every report); a content security
policy forbids the page to load anything. Whatever comes from data is escaped: by jinja2 in the page, by \\u003c in the
charts' JSON.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from trainer.base.errors import UserError
from trainer.base.formatting import (
    changes_in_words,
    duration,
    evidence_in_words,
    figure,
    percent,
    plus_minus,
)
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE
from trainer.control.guard import explain as guard_explain
from trainer.report import charts
from trainer.report.history import History, read_history
from trainer.report.plotly_figures import INTERVAL, Figure, color
from trainer.report.real_data import real_note, real_rows
from trainer.tracking.journal import Line

TEMPLATE = "report.html.j2"
MAX_ROWS = 400  # of a table of decisions; a run that decided more often shows the last ones
TITLES = {
    "held-out": (
        "Held-out loss",
        "On real documents never trained on (validation part); the band is the 95 % interval.",
    ),
    "shares": ("Shares", "Areas: the target. Dotted: what was really drawn."),
    "epochs": ("Epochs", "How often each source has been gone through."),
    "source_value": (
        "SourceValue",
        "What a token of the source is worth now, in fresh real tokens, ± one standard error.",
    ),
    "value": (
        "Value of the sources",
        "What a token of a source is worth more than the others', ± one standard error: off the zero line by more than"
        " that, it is better or worse; open marks, what each estimator said alone.",
    ),
    "significance": (
        "Evidence on the sources",
        "By how many standard errors a source stands out from the others: above the dashed line its share moves.",
    ),
    "price": (
        "Price of a real token",
        "What a real token has to be worth more than a synthetic one to be drawn beyond the plan, beside what it is"
        " worth more now (dotted); 0 where the budget holds nothing back, beyond the top where it is out of reach.",
    ),
    "budget": (
        "Real data: planned and used",
        "Above, epochs used against all that are planned; below, the real share is the lesser of what value asks for"
        " and what the budget pays for.",
    ),
    "harm": (
        "The guard's evidence of harm",
        "Grows while held-out loss is higher than it should be: where the thick line crosses the dotted one the guard"
        " warns, at the dashed one it acts, and the evidence starts again.",
    ),
    "slice-harm": (
        "The guard's evidence by slice",
        "Grows while a group of real documents gets worse; at the dashed line one alone is said to have risen, several"
        " together sooner.",
    ),
    "slices": ("Slices", "Held-out loss of each group of real documents (of many, the twelve worst)."),
    "source-loss": ("Loss on the sources", "On a fixed sample of each training source."),
    "train": ("Training loss", "Of the batches as they were drawn: it moves with the mixture, too."),
}
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
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(output.name + ".tmp")
    aside.write_text(page, encoding="utf-8", errors="backslashreplace")
    aside.replace(output)


def _for_script(value: Any) -> str:
    """JSON that can stand inside a script element: no "<" can end it."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _labels(folders: Sequence[Path]) -> Iterator[str]:
    """A name for each run: the folder's, with its parent's where two are alike."""
    names = Counter(folder.resolve().name for folder in folders)
    seen: Counter[str] = Counter()
    for folder in map(Path.resolve, folders):
        label = folder.name if names[folder.name] == 1 else f"{folder.parent.name}/{folder.name}"
        seen[label] += 1
        yield label if seen[label] == 1 else f"{label} ({seen[label]})"


def _run(label: str, run: History, key: str, drawn: dict[str, Figure]) -> dict[str, Any]:
    """All that the page shows of one run; its charts go into ``drawn``."""
    figures = charts.figures(run)
    drawn |= {f"{key}-{name}": chart for name, chart in figures.items()}
    decisions = [_decision(line, before) for line, before in _with_before(run)]
    return {
        "key": key,
        "label": label,
        "name": run.name,
        "state": run.state,
        "state_class": STATE_CLASSES.get(run.state, "warn"),
        "reason": run.reason,
        "traceback": str((run.outcome or {}).get("traceback") or ""),
        "cards": list(_cards(run)),
        "charts": [(f"{key}-{name}", *TITLES[name], name in TALL) for name in figures],
        "sources": list(_sources(run)),
        "real": list(real_rows(run)),
        "real_note": real_note(run),
        "slices": list(_slices(run)),
        "moves": [row for row in decisions if row["action"] != "keep"][-MAX_ROWS:],
        "keeps": [row for row in decisions if row["action"] == "keep"][-MAX_ROWS:],
        "num_decisions": len(decisions),
        "verdicts": sorted(Counter(row["verdict"] for row in decisions).items()),
        "events": list(_events(run)),
        "samples": [(str(line["prompt"]), str(line["text"])) for line in run.lines.get("sample", [])],
        "environment": list(_environment(run)),
        "recipe": run.recipe,
    }


def _report_bits(report: Line) -> tuple[float, float]:
    """Bits per byte of the report and their standard error, from the one in nats per token by the same factor."""
    bits, nats = number(report["bits_per_byte"]), number(report["nats_per_token"])
    return bits, number(report.get("standard_error")) * bits / nats if nats else 0.0


def _cards(run: History) -> Iterator[tuple[str, str, str]]:
    """(name, figure, small print) of the headline."""
    if run.test is not None:
        bits, error = _report_bits(run.test)
        yield "Report, bits per byte", plus_minus(bits, error), _interval(bits, error)
        if worst := run.test.get("worst_slice"):
            yield "Worst slice, bits per byte", figure(worst["bits_per_byte"]), str(worst["name"])
    elif evaluations := run.lines.get("evaluation"):
        last = evaluations[-1]
        loss = plus_minus(last["nats_per_token"], last.get("standard_error"))
        yield "Held-out (validation), nats per token", loss, f"after step {last['step']}; no final report yet"
    if run.last_step:
        synthetic = [percent(round(share * SHARE_ONE)) for share in run.synthetic_share()[[0, -1]]]
        yield "Synthetic share", f"{synthetic[0]} → {synthetic[1]}", "first and last step"
        yield "Steps", figure(run.last_step), f"{figure(run.steps.tokens.sum())} tokens"
    if decisions := run.lines.get("decision"):
        changed = sum(dict(line["shares"]) != dict(before) for line, before in _with_before(run))
        yield "Changes of share", figure(changed), f"in {len(decisions)} decisions"
    if finish := run.lines.get("finish"):
        yield "Time", duration(number(finish[-1]["seconds"])), "since the last start"


def _interval(value: float, error: float) -> str:
    if not error > 0:
        return "no interval"
    return f"95 %: {value - INTERVAL * error:.3f} to {value + INTERVAL * error:.3f}"


def _sources(run: History) -> Iterator[dict[str, str]]:
    """What is known of each source: the facts of its data, and how much of it was used."""
    segments = run.start.get("sources", {})
    evaluations = [line for line in run.lines.get("evaluation", []) if line.get("source_value")]
    source_values = evaluations[-1]["source_value"] if evaluations else {}
    for index, source in enumerate(run.sources):
        segment = segments.get(source, {})
        source_value = source_values.get(source)
        shares = run.steps.shares[[0, -1], index] if run.last_step else [0.0, 0.0]
        begin, end = (percent(round(float(share) * SHARE_ONE)) for share in shares)
        yield {
            "name": source,
            "color": color(index),
            "kind": run.kinds.get(source, ""),
            "license": str(segment.get("license") or "unknown"),
            "documents": figure(segment.get("num_documents")),
            "tokens": figure(segment.get("num_tokens")),
            "share": f"{begin} → {end}" if run.last_step else "-",
            "epochs": f"{run.steps.epochs[-1, index]:.2f}" if run.last_step else "-",
            "source_value": plus_minus(source_value["value"], source_value["standard_error"]) if source_value else "-",
            "quarantine": _counts(run.start.get("quarantine", {}), source),
            "contamination": _counts(run.start.get("contamination", {}), source),
        }


def _counts(found: Any, source: str) -> str:
    """What was counted for a source and the segments that join it, in words; "none" when nothing was."""
    if not isinstance(found, Mapping):
        return "-"
    by_segment = found.get("sources", found)
    names = [name for name in by_segment if name.partition(":")[0] == source] if isinstance(by_segment, Mapping) else []
    told = {name: _counted(by_segment[name]) for name in names}
    parts = [f"{text} (segment {name.partition(':')[2] or 0})" for name, text in told.items() if text != "none"]
    return ", ".join(told.values() if len(told) == 1 else parts) or "none"


def _counted(counted: Any) -> str:
    if isinstance(counted, int):
        return figure(counted)
    if not isinstance(counted, Mapping):
        return "none"
    reasons = counted.get("reasons", counted)
    told = [f"{name} {value}" for name, value in evidence_in_words(reasons) if value not in ("0", "none")]
    return ", ".join(told) or "none"


def _slices(run: History) -> Iterator[dict[str, str]]:
    """The slices of the final report, or of the last reading; the worst first."""
    evaluations = [line for line in run.lines.get("evaluation", []) if line.get("slices")]
    last = run.test or (evaluations[-1] if evaluations else {})
    slices = last.get("slices", {})
    drawn = evaluations[-1].get("drawn_slices", {}) if evaluations else {}
    for name in sorted(slices, key=lambda name: -number(slices[name]["nats_per_token"])):
        found = slices[name]
        yield {
            "name": name,
            "bits": figure(found.get("bits_per_byte")),
            "nats": figure(found["nats_per_token"]),
            "documents": figure(found.get("documents")),
            "real": f"{number(drawn[name]['real']):.1%}" if name in drawn else "-",
            "drawn": f"{number(drawn[name]['drawn']):.1%}" if name in drawn else "-",
        }


def _with_before(run: History) -> Iterator[tuple[Line, Mapping[str, int]]]:
    """Each decision with the shares that were in force before it."""
    before: Mapping[str, int] = {}
    if run.last_step:
        first = run.steps.shares[0]
        before = {name: round(share * SHARE_ONE) for name, share in zip(run.sources, first.tolist(), strict=True)}
    for line in run.lines.get("decision", []):
        told = line.get("evidence", {}).get("shares_before")
        yield line, told if isinstance(told, Mapping) else before
        before = line["shares"]


def _decision(line: Line, before: Mapping[str, int]) -> dict[str, Any]:
    evidence = {key: value for key, value in line.get("evidence", {}).items() if key != "shares_before"}
    guard = evidence.get("guard")
    guard = guard if isinstance(guard, Mapping) else {}
    action = str(line["action"])
    return {
        "step": line["step"],
        "from_step": line["from_step"],
        "action": action,
        "action_class": {"move": "info", "keep": "", "warn": "warn"}.get(action, "bad"),
        "changes": changes_in_words(before, line["shares"]).replace("->", "→"),
        "reason": str(line["reason"]),
        "guard": guard_explain.summarize(guard),
        # What is not the policy's to do is the guard's; a guard that let the policy do as it liked said ok.
        "verdict": str(guard.get("action") or (action if action not in ("keep", "move") else "ok")),
        "evidence": list(evidence_in_words(evidence)),
    }


def _events(run: History) -> Iterator[tuple[int, str, str]]:
    """(step, what, words) of what happened beside training: resumes, rollbacks, caps, clipped lags, and the like."""
    for line in run.lines.get("start", [])[1:]:
        yield line["step"], "resumed", f"from {line.get('resumed_from')}, {line.get('world_size')} processes"
    for kind in ("rollback", "join", "retire", "cap", "deficit", "nonfinite", "spike", "skew"):
        for line in run.lines.get(kind, []):
            rest = {key: value for key, value in line.items() if key not in ("kind", "step", "samples", "ranks")}
            yield line["step"], kind, "; ".join(f"{name} {value}" for name, value in evidence_in_words(rest))
    if saved := run.lines.get("checkpoint"):
        yield saved[-1]["step"], "checkpoint", f"the last of {len(saved)}: {saved[-1].get('folder')}"


def _environment(run: History) -> Iterator[tuple[str, str]]:
    start = run.start
    if parameters := start.get("parameters"):
        yield "parameters", figure(parameters)
    for key in ("world_size", "store", "validation_documents"):
        if key in start:
            yield key.replace("_", " "), str(start[key])
    yield from evidence_in_words(start.get("environment", {}))
    yield "run folder", str(run.folder)
