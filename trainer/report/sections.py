"""The tables of the report: values of one run in, rows of text out."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.base.formatting import changes_in_words, duration, evidence_in_words, figure, percent, plus_minus
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE
from trainer.control.guard.explain import summarize
from trainer.data.account import QUARANTINE
from trainer.data.account_text import accounts_of, clean, dropped_in_words, files_in_words
from trainer.report.history import History
from trainer.report.plotly_figures import INTERVAL, color
from trainer.tracking.headlines import headline
from trainer.tracking.record import JournalLine
from trainer.tracking.round_line import RoundLine
from trainer.tracking.schema import (
    CapLine,
    CheckpointLine,
    DecisionLine,
    DeficitLine,
    JoinLine,
    NonFiniteLine,
    RateLine,
    RetireLine,
    RollbackLine,
    SkewLine,
    SpikeLine,
    StartLine,
)

EVENTS: tuple[type[JournalLine], ...] = (
    RateLine, RollbackLine, RoundLine, JoinLine, RetireLine, CapLine, DeficitLine, NonFiniteLine, SpikeLine, SkewLine,
)  # fmt: skip
ACTION_CLASSES = {"move": "info", "keep": "", "warn": "warn"}  # of the badge; everything else is "bad"


def cards(run: History) -> Iterator[tuple[str, str, str]]:
    """(name, figure, small print) of the headline."""
    if run.test is not None:
        test = run.test.figures
        bits, error = test.bits_with_error()
        if test.bits_per_byte is None:
            bits, error = test.nats_per_token, number(test.standard_error)
        unit = "bits per byte" if test.bits_per_byte is not None else "nats per token"
        yield f"Test loss, {unit}", plus_minus(bits, error), _interval(bits, error)
        if test.worst_slice is not None:
            yield "Worst slice (test), bits per byte", figure(test.worst_slice.bits_per_byte), test.worst_slice.name
    elif run.evaluations:
        last = run.evaluations[-1]
        loss = plus_minus(last.figures.nats_per_token, last.figures.standard_error)
        yield "Validation loss, nats per token", loss, f"after step {last.step}; no test figures yet"
    if run.last_step:
        synthetic = [percent(round(share * SHARE_ONE)) for share in run.synthetic_share()[[0, -1]]]
        yield "Synthetic share", f"{synthetic[0]} → {synthetic[1]}", "first and last step"
        yield "Steps", figure(run.last_step), f"{figure(run.steps.tokens.sum())} tokens"
    if decisions := list(_with_before(run)):
        changed = sum(dict(line.shares) != dict(before) for line, before in decisions)
        yield "Changes of share", figure(changed), f"in {len(decisions)} decisions"
    if run.finish is not None:
        yield "Time", duration(run.finish.seconds), "since the last start"


def _interval(value: float, error: float) -> str:
    if not error > 0:
        return "no interval"
    return f"95 %: {value - INTERVAL * error:.3f} to {value + INTERVAL * error:.3f}"


def source_rows(run: History) -> Iterator[dict[str, str]]:
    """Each source: the facts of its data, and how much of it was used."""
    measured = [line.source_value for line in run.evaluations if line.source_value]
    source_values = measured[-1] if measured else {}
    sources = run.start.sources if run.start else {}
    for index, source in enumerate(run.sources):
        facts, value = sources.get(source), source_values.get(source)
        shares = run.steps.shares[[0, -1], index] if run.last_step else [0.0, 0.0]
        begin, end = (percent(round(float(share) * SHARE_ONE)) for share in shares)
        yield {
            "name": source,
            "color": color(index),
            "kind": run.kinds.get(source, ""),
            "license": (facts.license if facts else None) or "unknown",
            "documents": figure(facts.num_documents if facts else None),
            "tokens": figure(facts.num_tokens if facts else None),
            "share": f"{begin} → {end}" if run.last_step else "-",
            "epochs": f"{run.steps.epochs[-1, index]:.2f}" if run.last_step else "-",
            "source_value": plus_minus(value.value, value.standard_error) if value else "-",
        }


def account_rows(run: History) -> Iterator[dict[str, Any]]:
    """Where the files and rows of each segment went, with examples of documents lost to held-out ones."""
    for name, account in accounts_of(run.start.rows if run.start else {}).items():
        yield {
            "name": name,
            "files": files_in_words(account.files),
            "read": figure(account.read),
            "used": figure(account.used),
            "held_out": figure(account.held_out),
            "dropped": dropped_in_words(account),
            "same_form": figure(account.copies.same_form),
            "copies": [clean(copy.in_words()) for copy in account.copies.examples],
        }


def quarantine_of(run: History) -> str | None:
    """The file that lists the malformed rows, where there are some."""
    if run.start is None or not run.start.store:
        return None
    accounts = accounts_of(run.start.rows).values()
    return str(Path(run.start.store) / QUARANTINE) if any(account.quarantined for account in accounts) else None


def slice_rows(run: History) -> Iterator[dict[str, str]]:
    """The slices of the test figures, or of the last evaluation; the worst first."""
    evaluations = [line for line in run.evaluations if line.figures.slices]
    last = run.test or (evaluations[-1] if evaluations else None)
    slices = last.figures.slices if last else {}
    drawn = evaluations[-1].drawn_slices if evaluations else {}
    for name in sorted(slices, key=lambda name: -number(slices[name].nats_per_token)):
        yield {
            "name": name,
            "bits": figure(slices[name].bits_per_byte),
            "nats": figure(slices[name].nats_per_token),
            "documents": figure(slices[name].documents),
            "real": f"{drawn[name].real:.1%}" if name in drawn else "-",
            "drawn": f"{drawn[name].drawn:.1%}" if name in drawn else "-",
        }


def decision_rows(run: History) -> list[dict[str, Any]]:
    """Every decision with its reason, its evidence and what changed."""
    return [_decision(line, before) for line, before in _with_before(run)]


def _with_before(run: History) -> Iterator[tuple[DecisionLine, Mapping[str, int]]]:
    """Each decision with the shares that were in force before it."""
    before: Mapping[str, int] = {}
    if run.last_step:
        first = run.steps.shares[0]
        before = {name: round(share * SHARE_ONE) for name, share in zip(run.sources, first.tolist(), strict=True)}
    for line in run.of(DecisionLine):
        recorded = line.evidence.get("shares_before")
        yield line, recorded if isinstance(recorded, Mapping) else before
        before = line.shares


def _decision(line: DecisionLine, before: Mapping[str, int]) -> dict[str, Any]:
    evidence = {key: value for key, value in line.evidence.items() if key != "shares_before"}
    guard = evidence.get("guard")
    guard = guard if isinstance(guard, Mapping) else {}
    return {
        "step": line.step,
        "from_step": line.from_step,
        "action": line.action,
        "action_class": ACTION_CLASSES.get(line.action, "bad"),
        "policy": line.policy,
        "changes": changes_in_words(before, line.shares).replace("->", "→"),
        "reason": line.reason,
        "guard": summarize(guard),
        # An action that is not the policy's is the guard's; a guard that did not interfere said ok.
        "verdict": str(guard.get("action") or (line.action if line.action not in ("keep", "move") else "ok")),
        "evidence": list(evidence_in_words(evidence)),
    }


def event_rows(run: History) -> Iterator[tuple[int, str, str]]:
    """(step, what, words) of what happened alongside training: resumes, rollbacks, caps, clipped deficits."""
    for line in run.of(StartLine)[1:]:
        yield line.step, "resumed", f"from {line.resumed_from}, {line.world_size} processes"
    for kind in EVENTS:
        yield from ((line.step, kind.kind, headline(line)) for line in run.of(kind))
    if saved := run.of(CheckpointLine):
        yield saved[-1].step, "checkpoint", f"the last of {len(saved)}: {saved[-1].folder}"


def environment_rows(run: History) -> Iterator[tuple[str, str]]:
    """On what the run was first started."""
    if start := run.start:
        yield "parameters", figure(start.parameters)
        yield "processes", str(start.world_size)
        yield "validation documents", figure(start.validation_documents)
        if start.store is not None:
            yield "prepared data", start.store
        yield from evidence_in_words(start.environment)
    yield "run folder", str(run.folder)
