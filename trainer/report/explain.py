"""Why the share was what it was at a step, in words, from the lines of journal and ledger alone.

The ledger says which shares governed a step and from which step on; the journal says what was measured, what the policy
proposed on it and what the guard's verdict was. Neither is computed again: the text is what was decided on then.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.base.errors import UserError
from trainer.base.formatting import changes_in_words, evidence_in_words, figure, percent, plus_minus, shares_in_words
from trainer.base.json_values import number
from trainer.base.records import SourceValue
from trainer.control.guard import explain as guard_explain
from trainer.control.policies import POLICIES
from trainer.data.account_text import accounts_of, loss_warnings
from trainer.mixture.ledger import Fact, Shares
from trainer.tracking.guard_verdict import guard_verdict
from trainer.tracking.headlines import headline
from trainer.tracking.record import JournalLine
from trainer.tracking.round_line import RoundLine
from trainer.tracking.schema import (
    CapLine,
    DecisionLine,
    DeficitLine,
    EvaluationLine,
    JoinLine,
    RetireLine,
    RollbackLine,
    StartLine,
    StepLine,
)

BOUND_NAMES = ("floor", "floors", "real_floor", "ceiling", "ceilings", "max_move", "bounds")
SHARE_NAMES = ("proposed", "proposal", "shares", "shares_before")


@dataclass(frozen=True, kw_only=True)
class InForce:
    """The shares at a step: ``now`` in force, ``before`` them (None where the run began with these), ``next`` ones."""

    now: Shares
    before: Shares | None
    next: Shares | None


def explain(journal_lines: Iterable[JournalLine], ledger: Iterable[Fact], step: int | None = None) -> str:
    """Text for step ``step`` (the batch of that step; None: the last). UserError when the run has no shares in force
    at that step.
    """
    journal = list(journal_lines)
    last_step = max((line.step for line in journal if isinstance(line, StepLine)), default=None)
    if step is None:
        step = last_step or 1
    shares = _in_force(ledger, step)
    if last_step is not None and step > last_step:
        raise UserError("the run has not reached this step", got=step, remedy=f"Its last step is {last_step}")
    decisions = [line for line in journal if isinstance(line, DecisionLine)]
    decision = next((line for line in reversed(decisions) if line.from_step == shares.now.step), None)
    paragraphs = [_opening(journal, shares.now, step)]
    if decision is None:
        paragraphs += _without_decision(journal, shares)
    else:
        paragraphs += _decided(journal, decision, shares.before)
    paragraphs += _since(journal, decisions, shares.now, step)
    paragraphs += _events(journal, shares.now.step, step)
    paragraphs += _lost_data(journal)
    verdict = guard_verdict(line for line in journal if line.step <= step)
    if not verdict.could_see:
        paragraphs.append(f"Mind: {verdict.text}.")
    if shares.next is not None:
        change = changes_in_words(shares.now.shares, shares.next.shares)
        paragraphs.append(f"Next change: from step {shares.next.step}, {change}.")
    return "\n\n".join(paragraphs) + "\n"


def _in_force(ledger: Iterable[Fact], step: int) -> InForce:
    facts = [fact for fact in ledger if isinstance(fact, Shares)]
    until = [fact for fact in facts if fact.step <= step]
    if not until:
        begin = f"step {facts[0].step}" if facts else "no shares at all: is this a ledger?"
        raise UserError("no shares were in force at this step", got=step, remedy=f"The ledger begins at {begin}")
    later = next((fact for fact in facts if fact.step > step), None)
    return InForce(now=until[-1], before=until[-2] if len(until) > 1 else None, next=later)


def _opening(journal: Sequence[JournalLine], now: Shares, step: int) -> str:
    kinds = {
        source: facts.kind for line in journal if isinstance(line, StartLine) for source, facts in line.sources.items()
    }
    text = f"Step {step}: {shares_in_words(now.shares)}"
    if kinds:
        synthetic = sum(share for source, share in now.shares.items() if kinds.get(source) == "synthetic")
        text += f" (synthetic {percent(synthetic)})"
    drawn = next((line.mixture.counts for line in journal if isinstance(line, StepLine) and line.step == step), None)
    if drawn is not None:
        text += f".\nDrawn in this step: {', '.join(f'{count} {source}' for source, count in drawn.items())}"
    return f"{text}.\nIn force since step {now.step}."


def _without_decision(journal: Sequence[JournalLine], shares: InForce) -> list[str]:
    now = shares.now
    caps = (line for line in journal if isinstance(line, CapLine) and line.step in (now.step, now.step - 1))
    cap = next(caps, None)
    if cap is not None:
        epochs = figure(cap.epochs)
        return [f"Not a decision on evidence: source {cap.source} reached the cap of its epochs after {epochs} epochs."]
    joined = next((line for line in journal if _joins(line) and line.step in (now.step, now.step - 1)), None)
    if isinstance(joined, RoundLine):
        return ["Not a decision on evidence: " + _joined(journal, joined, shares)]
    reason = now.reason or "no reason is recorded"
    if shares.before is None:
        return [f"These are the shares the run began with ({reason}); nothing had been decided yet."]
    changed = changes_in_words(shares.before.shares, now.shares)
    return [f"Changed: {changed}.\nReason in the ledger: {reason}. The journal holds no decision for it."]


def _joins(line: JournalLine) -> bool:
    return isinstance(line, RoundLine) and line.state == "joined"


def _joined(journal: Sequence[JournalLine], joined: RoundLine, shares: InForce) -> str:
    """A generation's way into the mixture: when it began, what passed, what it was bought for, how the shares moved."""
    of_round = [line for line in journal if isinstance(line, RoundLine) and line.generation == joined.generation]
    told = {"begun", "lot", "ended"}
    before = [f"  after step {line.step}, {line.state}: {line.reason}" for line in of_round if line.state in told]
    text = f"generation {joined.generation} of {joined.source} joined; {joined.reason}."
    if shares.before is not None:
        text += f"\nChanged: {changes_in_words(shares.before.shares, shares.now.shares)}."
    return "\n".join([text, *before])


def _decided(journal: Sequence[JournalLine], decision: DecisionLine, before: Shares | None) -> list[str]:
    evidence = decision.evidence
    after = f"Decided after step {decision.step}"
    if "progress" in evidence:
        after += f", at {100 * number(evidence['progress']):.0f} % of the run"
    opening = f"{after}: {decision.action}.\nWhy: {_sentence(decision.reason)}"
    if before is not None:
        opening += f"\nChanged: {changes_in_words(before.shares, decision.shares)}."
    paragraphs = [opening, *_measured(journal, decision.step), *_policy(decision), *_guard(evidence.get("guard", {}))]
    rest = {key: value for key, value in evidence.items() if key not in ("policy", "guard", "progress", *SHARE_NAMES)}
    if rest:
        paragraphs.append("Further evidence:\n" + _listed(rest))
    return [*paragraphs, *_otherwise(decision, {} if before is None else before.shares)]


def _policy(decision: DecisionLine) -> list[str]:
    """The policy's evidence in its own words; by name where it has none, or is not installed here."""
    evidence = decision.evidence.get("policy", {})
    if not isinstance(evidence, Mapping) or not evidence:
        return _by_name("Policy", evidence)
    try:
        lines = POLICIES.resolve(decision.policy).explain(evidence)
    except Exception:  # noqa: BLE001 -- from outside: not installed here, or another version that has other evidence
        lines = ()
    return ["\n".join((f"Policy: {lines[0]}", *lines[1:]))] if lines else _by_name("Policy", evidence)


def _guard(evidence: Any) -> list[str]:
    if isinstance(evidence, Mapping) and guard_explain.is_explained(evidence):
        return ["\n".join(guard_explain.explain(evidence))]
    return _by_name("Guard", evidence)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else text + "."


def _measured(journal: Sequence[JournalLine], step: int) -> list[str]:
    """What the last evaluation at or before ``step`` measured, with its errors."""
    evaluations = [line for line in journal if isinstance(line, EvaluationLine) and line.step <= step]
    if not evaluations:
        return []
    evaluation, figures = evaluations[-1], evaluations[-1].figures
    loss = plus_minus(figures.nats_per_token, figures.standard_error)
    text = f"Measured after step {evaluation.step}: held-out loss {loss} nats per token"
    text += f" on {figure(figures.documents)} real documents"
    if len(evaluations) > 1:
        change = figures.nats_per_token - evaluations[-2].figures.nats_per_token
        text += f" ({change:+.3f} against step {evaluations[-2].step})"
    if figures.tail_nats_per_token is not None:
        text += f"; tail loss (worst 10 %) {figure(figures.tail_nats_per_token)}"
    values = [_source_value(source, value) for source, value in evaluation.source_value.items()]
    if not values:
        return [text + "."]
    unit = "Source value, per token in fresh real tokens (1 as good, 0 useless, below 0 harmful)"
    return [f"{text}.\n{unit}:\n" + "\n".join(values)]


def _source_value(source: str, value: SourceValue) -> str:
    estimate = plus_minus(value.value, value.standard_error)
    text = f"  {source}: {estimate} on {figure(value.num_samples)} samples"
    if value.standard_error > 0:
        errors, side = abs(value.value) / value.standard_error, "above" if value.value >= 0 else "below"
        text += f", {errors:.1f} standard errors {side} 0"
    return text


def _by_name(title: str, evidence: Any) -> list[str]:
    """Evidence of a policy or guard without words of its own: its action and reason, its bounds, its figures."""
    if not isinstance(evidence, Mapping):
        return [f"{title}: {evidence}."] if evidence else []
    figures = dict(evidence)
    action, reason = figures.pop("action", None), figures.pop("reason", None)
    about = figures.pop("source", None)
    bounds = {key: figures.pop(key) for key in BOUND_NAMES if key in figures}
    figures = {key: value for key, value in figures.items() if key not in SHARE_NAMES}
    head = ", ".join(str(part) for part in (action, about) if part)
    text = f"{title}: {'; '.join(part for part in (head, reason) if part) or 'its figures'}".rstrip(".") + "."
    if bounds:
        text += "\n  bounds: " + ", ".join(f"{name} {value}" for name, value in evidence_in_words(bounds))
    if figures:
        text += "\n" + _listed(figures)
    return [text] if figures or bounds or reason else []


def _listed(evidence: Mapping[str, Any]) -> str:
    return "\n".join(f"  {name}: {value}" for name, value in evidence_in_words(evidence))


def _otherwise(decision: DecisionLine, before: Mapping[str, int]) -> list[str]:
    """What would have been in force instead, where the lines say it."""
    policy = decision.evidence.get("policy")
    holders = (decision.evidence, policy if isinstance(policy, Mapping) else {})
    proposals = (holder[key] for holder in holders for key in SHARE_NAMES[:3] if isinstance(holder.get(key), Mapping))
    proposed = next(proposals, None)
    if proposed and dict(proposed) != dict(decision.shares):
        return [f"Without the guard the policy's proposal would have come into force: {shares_in_words(proposed)}."]
    if before and dict(before) != dict(decision.shares):
        return [f"Without this decision the shares would have stayed at {shares_in_words(before)}."]
    return []


def _since(journal: Sequence[JournalLine], decisions: Sequence[DecisionLine], now: Shares, step: int) -> list[str]:
    """The decisions in between that left the shares as they were, and the figures of the last that had any."""
    later = [line for line in decisions if now.step < line.from_step <= step]
    if not later:
        return []
    last = later[-1]
    times = "evaluation" if len(later) == 1 else f"{len(later)} evaluations"
    text = f"The {times} since then left the shares as they were; the last came after step {last.step}"
    text = f"{text} ({last.action}): {_sentence(last.reason)}"
    judged = next((line for line in reversed(later) if line.evidence.get("policy")), None)
    if judged is None:
        return [text]
    if judged is not last:
        text += f"\nThe last with figures came after step {judged.step} ({judged.action}): {_sentence(judged.reason)}"
    return [text, *_measured(journal, judged.step), *_policy(judged)]


def _lost_data(journal: Sequence[JournalLine]) -> list[str]:
    """What the sources lost before the first step that the recipe did not ask for."""
    first = next((line for line in journal if isinstance(line, StartLine)), None)
    losses = loss_warnings(accounts_of(first.rows), first.store) if first else ()
    texts = [_sentence(f"Left out of the data: {loss}") for loss in losses]
    return ["\n".join(texts)] if texts else []


def _events(journal: Sequence[JournalLine], first: int, last: int) -> list[str]:
    events = (DeficitLine, JoinLine, RetireLine, RollbackLine, RoundLine)
    lines = [line for line in journal if isinstance(line, events) and first <= line.step <= last]
    texts = [f"After step {line.step}: {_sentence(headline(line))}" for line in lines]
    return ["\n".join(texts)] if texts else []
