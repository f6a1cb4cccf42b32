"""Why the share was what it was at a step, in words, from the lines of journal and ledger alone.

The ledger says which shares governed a step and from which step on; the journal says what was measured, what the policy
proposed on it and what the guard thought. Neither is computed again: what is told is what was decided on at the time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.base.errors import UserError
from trainer.base.formatting import (
    changes_in_words,
    evidence_in_words,
    figure,
    percent,
    plus_minus,
    shares_in_words,
)
from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE
from trainer.control.guard import explain as guard_explain
from trainer.control.policies import POLICIES
from trainer.tracking.journal import Line

BOUND_NAMES = ("floor", "floors", "real_floor", "ceiling", "ceilings", "max_move", "bounds")
SHARE_NAMES = ("proposed", "proposal", "shares", "shares_before")


def explain(journal_lines: Iterable[Line], ledger_lines: Iterable[Line], step: int) -> str:
    """Text for step ``step`` (the batch of that step). UserError when the run has no shares in force at that step."""
    journal = list(journal_lines)
    facts = [line for line in ledger_lines if line["fact"] == "shares"]
    force = [fact for fact in facts if fact["step"] <= step]
    last_step = max((line["step"] for line in journal if line["kind"] == "step"), default=None)
    if not force:
        raise UserError(
            "no shares were in force at this step", got=step, remedy=f"The ledger begins at {_begin(facts)}"
        )
    if last_step is not None and step > last_step:
        raise UserError("the run has not come to this step", got=step, remedy=f"Its last step is {last_step}")
    now, before = force[-1], force[-2] if len(force) > 1 else None
    decisions = [line for line in journal if line["kind"] == "decision"]
    decision = next((line for line in reversed(decisions) if line["from_step"] == now["step"]), None)
    paragraphs = [_headline(journal, now, step)]
    if decision is None:
        paragraphs += _without_decision(journal, now, before)
    else:
        paragraphs += _decided(journal, decision, before)
    paragraphs += _since(decisions, now, step)
    paragraphs += _events(journal, now["step"], step)
    paragraphs += _next_change(facts, now, step)
    return "\n\n".join(paragraphs) + "\n"


def _begin(facts: Sequence[Line]) -> str:
    return f"step {facts[0]['step']}" if facts else "no shares at all: is this a ledger?"


def _headline(journal: Sequence[Line], now: Line, step: int) -> str:
    kinds = _kinds(journal)
    text = f"Step {step}: {shares_in_words(now['shares'])}"
    if kinds:
        synthetic = sum(share for source, share in now["shares"].items() if kinds.get(source) == "synthetic")
        text += f" (synthetic {percent(synthetic)})"
    drawn = next((line["counts"] for line in journal if line["kind"] == "step" and line["step"] == step), None)
    if drawn is not None:
        text += f".\nDrawn in this step: {', '.join(f'{count} {source}' for source, count in drawn.items())}"
    return f"{text}.\nIn force since step {now['step']}."


def _kinds(journal: Sequence[Line]) -> dict[str, str]:
    """Which sources are real and which synthetic, as far as the run said when it started."""
    kinds: dict[str, str] = {}
    for line in journal:
        if line["kind"] == "start":
            kinds |= {source: segment.get("kind", "") for source, segment in line.get("sources", {}).items()}
    return kinds


def _without_decision(journal: Sequence[Line], now: Line, before: Line | None) -> list[str]:
    cap = next(
        (line for line in journal if line["kind"] == "cap" and line["step"] in (now["step"], now["step"] - 1)), None
    )
    if cap is not None:
        epochs = f" after {figure(cap['epochs'])} epochs" if "epochs" in cap else ""
        return [f"Not a decision on evidence: source {cap['source']} reached the cap of its epochs{epochs}."]
    reason = now.get("reason") or "no reason is recorded"
    if before is None:
        return [f"These are the shares the run began with ({reason}); nothing had been decided yet."]
    changed = changes_in_words(before["shares"], now["shares"])
    return [f"Changed: {changed}.\nReason in the ledger: {reason}. The journal holds no decision for it."]


def _decided(journal: Sequence[Line], decision: Line, before: Line | None) -> list[str]:
    evidence = decision.get("evidence", {})
    old = before["shares"] if before else {}
    after = f"Decided after step {decision['step']}"
    if "progress" in evidence:
        after += f", at {100 * number(evidence['progress']):.0f} % of the run"
    paragraphs = [f"{after}: {decision['action']}.\nWhy: {_sentence(decision['reason'])}"]
    if old:
        paragraphs[0] += f"\nChanged: {changes_in_words(old, decision['shares'])}."
    paragraphs += _measured(journal, decision["step"])
    policy = evidence.get("policy", {})
    paragraphs += _proposed(decision.get("policy", ""), policy)
    guard = evidence.get("guard", {})
    is_explained = isinstance(guard, Mapping) and guard_explain.is_explained(guard)
    paragraphs += ["\n".join(guard_explain.explain(guard))] if is_explained else _told("Guard", guard)
    rest = {key: value for key, value in evidence.items() if key not in ("policy", "guard", "progress", *SHARE_NAMES)}
    if rest:
        paragraphs.append("Further evidence:\n" + _listed(rest))
    return paragraphs + _otherwise(decision, evidence, old)


def _proposed(kind: str, evidence: Any) -> list[str]:
    """The policy's evidence in its own words, or its figures by name where it has none, or is not installed here."""
    try:
        lines = POLICIES.resolve(kind).explain(evidence) if isinstance(evidence, Mapping) and evidence else ()
    except UserError:
        lines = ()
    return ["\n".join((f"Policy: {lines[0]}", *lines[1:]))] if lines else _told("Policy", evidence)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _measured(journal: Sequence[Line], step: int) -> list[str]:
    """What the last readings at or before ``step`` said, with their errors."""
    evaluations = [line for line in journal if line["kind"] == "evaluation" and line["step"] <= step]
    if not evaluations:
        return []
    evaluation = evaluations[-1]
    loss = plus_minus(evaluation["nats_per_token"], evaluation.get("standard_error"))
    text = f"Measured after step {evaluation['step']}: held-out loss {loss} nats per token"
    if "documents" in evaluation:
        text += f" on {figure(evaluation['documents'])} real documents"
    if len(evaluations) > 1:
        change = number(evaluation["nats_per_token"]) - number(evaluations[-2]["nats_per_token"])
        text += f" ({change:+.3f} against step {evaluations[-2]['step']})"
    if evaluation.get("tail_nats_per_token") is not None:
        text += f"; worst tenth {figure(evaluation['tail_nats_per_token'])}"
    source_values = [
        _worth(source, source_value) for source, source_value in evaluation.get("source_value", {}).items()
    ]
    if source_values:
        text += (
            ".\nSourceValue of a token, in fresh real tokens (1 as good, 0 useless, below 0 harmful):\n"
            + "\n".join(source_values)
        )
        return [text]
    return [text + "."]


def _worth(source: str, source_value: Mapping[str, Any]) -> str:
    value, error = number(source_value["value"]), number(source_value["standard_error"])
    text = f"  {source}: {plus_minus(value, error)} on {figure(source_value.get('num_samples'))} samples"
    if error > 0:
        text += f", {abs(value) / error:.1f} standard errors {'above' if value >= 0 else 'below'} 0"
    return text


def _told(who: str, said: Any) -> list[str]:
    """What policy or guard had to say: its action and reason, its bounds, its figures."""
    if not isinstance(said, Mapping):
        return [f"{who}: {said}."] if said else []
    figures = dict(said)
    action, reason = figures.pop("action", None), figures.pop("reason", None)
    about = figures.pop("source", None)
    bounds = {key: figures.pop(key) for key in BOUND_NAMES if key in figures}
    figures = {key: value for key, value in figures.items() if key not in SHARE_NAMES}
    head = ", ".join(str(part) for part in (action, about) if part)
    text = f"{who}: {'; '.join(part for part in (head, reason) if part) or 'its figures'}".rstrip(".") + "."
    if bounds:
        text += "\n  bounds: " + ", ".join(f"{name} {value}" for name, value in evidence_in_words(bounds))
    if figures:
        text += "\n" + _listed(figures)
    return [text] if figures or bounds or reason else []


def _listed(evidence: Mapping[str, Any]) -> str:
    return "\n".join(f"  {name}: {value}" for name, value in evidence_in_words(evidence))


def _otherwise(decision: Line, evidence: Mapping[str, Any], old: Mapping[str, int]) -> list[str]:
    """What would have been in force instead, where the lines know it."""
    policy = evidence.get("policy")
    proposed = None
    for holder in (evidence, policy if isinstance(policy, Mapping) else {}):
        proposed = proposed or next(
            (holder[key] for key in SHARE_NAMES[:3] if isinstance(holder.get(key), Mapping)), None
        )
    if proposed and dict(proposed) != dict(decision["shares"]):
        return [f"Without the guard the policy's proposal would have come into force: {shares_in_words(proposed)}."]
    if old and dict(old) != dict(decision["shares"]):
        return [f"Without this decision the shares would have stayed at {shares_in_words(old)}."]
    return []


def _since(decisions: Sequence[Line], now: Line, step: int) -> list[str]:
    """The decisions in between that left the shares as they were."""
    later = [line for line in decisions if now["step"] < line["from_step"] <= step]
    if not later:
        return []
    last = later[-1]
    times = "once" if len(later) == 1 else f"{len(later)} times"
    text = f"Looked at again {times} since and left as it was; last after step {last['step']}"
    return [f"{text} ({last['action']}): {_sentence(last['reason'])}"]


def _events(journal: Sequence[Line], first: int, last: int) -> list[str]:
    texts = []
    for line in journal:
        if not first <= line["step"] <= last:
            continue
        if line["kind"] == "deficit":
            deficits = " to ".join(
                f"{number(line[key]) / SHARE_ONE:.3f}" for key in ("before_millionths", "after_millionths")
            )
            texts.append(f"After step {line['step']} the lag of {line['source']} was clipped from {deficits} samples.")
        elif line["kind"] == "join":
            texts.append(
                f"From step {line['step'] + 1} on segment {line['segment']} of {line['source']} could be drawn, "
                f"{figure(line['num_samples'])} samples."
            )
        elif line["kind"] == "retire":
            texts.append(
                f"From step {line['step'] + 1} on segment {line['segment']} of {line['source']} was drawn no more."
            )
        elif line["kind"] == "rollback":
            texts.append(
                f"Rolled back to step {line['to_step']} before step {line['step']}: {_sentence(line['reason'])}"
            )
    return ["\n".join(texts)] if texts else []


def _next_change(facts: Sequence[Line], now: Line, step: int) -> list[str]:
    later = next((fact for fact in facts if fact["step"] > step), None)
    if later is None:
        return []
    return [f"Next change: from step {later['step']}, {changes_in_words(now['shares'], later['shares'])}."]
