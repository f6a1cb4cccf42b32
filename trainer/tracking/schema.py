"""Every kind of line that a run writes into its journal, field by field.

To add a figure of a step: a field in ``trainer.base.records.StepFigures``, its computation in
``trainer.engines.step_stats``, and a field in ``StepLine`` here with its copy in ``StepLine.of``. Trackers, report and
reference follow.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from trainer.base import failures
from trainer.base.errors import UserError
from trainer.base.records import (
    Action,
    Decision,
    Forgetting,
    GradientAlignment,
    SourceLoss,
    SourceValue,
    StepFigures,
)
from trainer.tracking.figures import HeldOutFigures, Shares, SliceDrawn, SourceFacts, StepMixture, in_ones
from trainer.tracking.journal import broken_line, parsed_lines
from trainer.tracking.record import About, JournalLine
from trainer.tracking.round_line import RoundLine


@dataclass(frozen=True, kw_only=True)
class StartLine(JournalLine):
    """A launch of the run: on what data and on which machine; one more at each resume."""

    kind: ClassVar[str] = "start"
    recipe_name: Annotated[str, About("name of the recipe")]
    world_size: Annotated[int, About("number of processes")]
    parameters: Annotated[int, About("parameters of the model")]
    resumed_from: Annotated[str | None, About("the checkpoint resumed from; null at the first start")]
    sources: Annotated[Mapping[str, SourceFacts], About("the data of each source")]
    validation_documents: Annotated[int, About("held-out documents that steer")]
    environment: Annotated[Mapping[str, Any], About("host, device, versions, SLURM job")]
    guard_blind: Annotated[
        str | None, About("why the guard cannot judge held-out loss in this run, and what to set; null where it can")
    ] = None
    store: Annotated[str | None, About("folder of the prepared data; null where samples come from elsewhere")] = None
    rows: Annotated[
        Mapping[str, Any],
        About("by segment: files seen and skipped, rows read, used and dropped, with reasons and examples"),
    ] = field(default_factory=dict)
    prior_values: Annotated[
        Mapping[str, Any], About("by segment: what a token was worth before the run, in fresh real ones, and its error")
    ] = field(default_factory=dict)
    tokenizer: Annotated[
        Mapping[str, Any], About("token before every document, and what of the held-out text the tokenizer loses")
    ] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepLine(JournalLine):
    """One optimizer step."""

    kind: ClassVar[str] = "step"
    loss: Annotated[float, About("mean training loss over the global batch", "nats per token", "loss/train")]
    source_loss: Annotated[
        Mapping[str, float], About("mean training loss by source", "nats per token", "loss/train/{}")
    ]
    learning_rate: Annotated[float, About("learning rate of the step", "", "learning_rate")]
    grad_norm: Annotated[float, About("gradient norm before clipping", "", "grad_norm")]
    tokens: Annotated[int, About("predicted tokens in the global batch", "tokens", "tokens/step")]
    mixture: Annotated[StepMixture, About("what the batch was made of", inline=True)]
    batch_hash: Annotated[str, About("sum mod 2^64 of the hashes of all samples, in decimal")]
    updated: Annotated[bool, About("false where loss or gradient was not finite and no weight changed")]
    seconds: Annotated[float, About("wall time of the step", "seconds", "seconds")]
    router_loss: Annotated[
        float | None,
        About("balancing loss of the experts, trained on and no part of the loss; null without", "", "loss/router"),
    ] = None
    teacher_divergence: Annotated[
        float | None,
        About(
            "mean KL from the teacher's distribution where one is trained on, no part of the loss; null without",
            "nats per token",
            "loss/teacher",
        ),
    ] = None

    @classmethod
    def of(
        cls,
        figures: StepFigures,
        *,
        step: int,
        mixture: StepMixture,
        losses: Mapping[str, SourceLoss],
        learning_rate: float,
        tokens: int,
        seconds: float,
    ) -> "StepLine":
        """The line of a step from its figures; ``losses`` of the sources that were drawn."""
        return cls(
            step=step,
            loss=figures.loss,
            source_loss={source: loss.nats_per_token for source, loss in losses.items()},
            learning_rate=learning_rate,
            grad_norm=figures.grad_norm,
            tokens=tokens,
            mixture=mixture,
            batch_hash=str(figures.batch_hash),
            updated=figures.updated,
            seconds=seconds,
            router_loss=figures.router_loss,
            teacher_divergence=figures.teacher_divergence,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationLine(JournalLine):
    """An evaluation on the validation documents, with what was measured of the sources."""

    kind: ClassVar[str] = "evaluation"
    figures: Annotated[HeldOutFigures, About("held-out figures", inline=True)]
    source_value: Annotated[
        Mapping[str, SourceValue],
        About(
            "source value: held-out improvement per token of each source", "fresh real tokens",
            {"value": "source_value/{}", "standard_error": "source_value/{}/standard_error"},
        ),
    ] = field(default_factory=dict)  # fmt: skip
    gradient_alignment: Annotated[
        Mapping[str, GradientAlignment],
        About(
            "inner product of each source's gradient with the held-out gradient", "nats per token and learning rate",
            {
                "inner_product": "alignment/{}", "standard_error": "alignment/{}/standard_error",
                "variance": "gradient_variance/{}",
            },
        ),
    ] = field(default_factory=dict)  # fmt: skip
    forgetting: Annotated[
        Mapping[str, Forgetting],
        About(
            "part of what a source taught that is lost at each step", "1 per step",
            {"value": "forgetting/{}", "standard_error": "forgetting/{}/standard_error"},
        ),
    ] = field(default_factory=dict)  # fmt: skip
    drawn_slices: Annotated[Mapping[str, SliceDrawn], About("how much of each slice was drawn so far")] = field(
        default_factory=dict
    )
    drawn_unnamed: Annotated[float | None, About("part of what was drawn that has no slice", "0 to 1")] = None
    seconds: Annotated[float, About("wall time of the evaluation", "seconds", "seconds/evaluation")]
    measurements: Annotated[
        Mapping[str, Mapping[str, Any]], About("estimates of measurements from outside, by kind and source")
    ] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        figures: HeldOutFigures,
        evidence: Mapping[str, Mapping[str, Any]],
        *,
        step: int,
        drawn_slices: Mapping[str, SliceDrawn],
        drawn_unnamed: float | None,
        seconds: float,
    ) -> "EvaluationLine":
        """The line of an evaluation with the ``evidence`` on the sources, by kind of measurement."""
        built_in = ("source_value", "gradient_alignment", "forgetting")
        return cls(
            step=step,
            figures=figures,
            source_value=evidence.get("source_value", {}),
            gradient_alignment=evidence.get("gradient_alignment", {}),
            forgetting=evidence.get("forgetting", {}),
            drawn_slices=drawn_slices,
            drawn_unnamed=drawn_unnamed,
            seconds=seconds,
            measurements={
                kind: {source: asdict(estimate) for source, estimate in estimates.items()}
                for kind, estimates in evidence.items()
                if kind not in built_in
            },
        )


@dataclass(frozen=True, kw_only=True)
class DecisionLine(JournalLine):
    """What policy and guard decided on an evaluation."""

    kind: ClassVar[str] = "decision"
    policy: Annotated[str, About("kind of the policy")]
    from_step: Annotated[int, About("first step that the decision governs")]
    action: Annotated[Action, About("keep, move, warn, cut, rollback or stop")]
    shares: Annotated[Shares, About("shares from that step on", "millionths", "share/{}/target", in_ones)]
    reason: Annotated[str, About("why, in one sentence")]
    evidence: Annotated[Mapping[str, Any], About("what it rests on: figures of the policy and of the guard")]

    @classmethod
    def of(cls, decision: Decision, *, step: int) -> "DecisionLine":
        """The line of a decision taken after ``step``."""
        return cls(
            step=step,
            policy=decision.policy,
            from_step=decision.from_step,
            action=decision.action,
            shares=decision.shares,
            reason=decision.reason,
            evidence=decision.evidence,
        )


@dataclass(frozen=True, kw_only=True)
class RollbackLine(JournalLine):
    """Weights, optimizer and schedule were restored from a checkpoint; steps and samples continue."""

    kind: ClassVar[str] = "rollback"
    to_step: Annotated[int, About("step of the checkpoint")]
    reason: Annotated[str, About("why")]


@dataclass(frozen=True, kw_only=True)
class RateLine(JournalLine):
    """A resume under another schedule made the learning rate jump, or would have."""

    kind: ClassVar[str] = "rate"
    learning_rate_before: Annotated[float, About("learning rate of the last step done")]
    learning_rate_by_schedule: Annotated[float, About("what the schedule has for the next step")]
    learning_rate: Annotated[float, About("learning rate of the next step")]
    choice: Annotated[str, About("training.rate_jump: accept, hold or rewarm")]


@dataclass(frozen=True, kw_only=True)
class CapLine(JournalLine):
    """A source reached its greatest number of epochs; its share went to the others."""

    kind: ClassVar[str] = "cap"
    source: Annotated[str, About("the source")]
    epochs: Annotated[float, About("its cap", "epochs")]
    shares: Annotated[Shares, About("shares from the next step on", "millionths")]


@dataclass(frozen=True, kw_only=True)
class DeficitLine(JournalLine):
    """The samples that a source was owed were clipped, as a share or segment changed."""

    kind: ClassVar[str] = "deficit"
    source: Annotated[str, About("the source")]
    before_millionths: Annotated[int, About("owed before", "millionths of a sample")]
    after_millionths: Annotated[int, About("owed after", "millionths of a sample")]


@dataclass(frozen=True, kw_only=True)
class JoinLine(JournalLine):
    """A segment joined its source."""

    kind: ClassVar[str] = "join"
    source: Annotated[str, About("the source")]
    segment: Annotated[int, About("number of the segment in its source")]
    num_samples: Annotated[int, About("samples of the segment")]


@dataclass(frozen=True, kw_only=True)
class RetireLine(JournalLine):
    """A segment left its source."""

    kind: ClassVar[str] = "retire"
    source: Annotated[str, About("the source")]
    segment: Annotated[int, About("number of the segment in its source")]


@dataclass(frozen=True, kw_only=True)
class SkewLine(JournalLine):
    """What was drawn has too much or too little of a slice, against the real data."""

    kind: ClassVar[str] = "skew"
    slice: Annotated[str, About("the slice")]
    real: Annotated[float, About("its part of the real data", "0 to 1")]
    drawn: Annotated[float, About("its part of what was drawn so far", "0 to 1")]


@dataclass(frozen=True, kw_only=True)
class SpikeLine(JournalLine):
    """A training loss far above those of the steps before."""

    kind: ClassVar[str] = "spike"
    loss: Annotated[float, About("mean training loss", "nats per token")]
    grad_norm: Annotated[float, About("gradient norm before clipping")]
    median: Annotated[float, About("median loss of the steps before", "nats per token")]
    spread: Annotated[float, About("their noise, as a standard deviation", "nats per token")]
    samples: Annotated[Sequence[str], About("the batch, as source:segment:sample")]


@dataclass(frozen=True, kw_only=True)
class NonFiniteLine(JournalLine):
    """A loss or gradient that was not finite; no rank changed its weights."""

    kind: ClassVar[str] = "nonfinite"
    loss: Annotated[float, About("mean training loss", "nats per token")]
    grad_norm: Annotated[float, About("gradient norm before clipping")]
    samples: Annotated[Sequence[str], About("the batch, as source:segment:sample")]


@dataclass(frozen=True, kw_only=True)
class CheckpointLine(JournalLine):
    """A checkpoint is complete."""

    kind: ClassVar[str] = "checkpoint"
    folder: Annotated[str, About("name of its folder")]
    seconds: Annotated[float, About("from its beginning until it was complete", "seconds")]
    stalled_seconds: Annotated[float, About("how long training waited for it", "seconds", "seconds/checkpoint")]
    bytes: Annotated[int, About("its size", "bytes")]


@dataclass(frozen=True, kw_only=True)
class TestLine(JournalLine):
    """The final figures, on test documents that no decision has read."""

    kind: ClassVar[str] = "test"
    __test__: ClassVar[bool] = False  # not a test class of pytest's
    figures: Annotated[HeldOutFigures, About("test figures", metric="test/", inline=True)]


@dataclass(frozen=True, kw_only=True)
class SampleLine(JournalLine):
    """A text that the trained model wrote."""

    kind: ClassVar[str] = "sample"
    prompt: Annotated[str, About("the beginning it was given")]
    text: Annotated[str, About("how the model continued")]


@dataclass(frozen=True, kw_only=True)
class FinishLine(JournalLine):
    """How a launch ended."""

    kind: ClassVar[str] = "finish"
    state: Annotated[str, About("finished, interrupted or stopped-by-guard")]
    reason: Annotated[str, About("why")]
    seconds: Annotated[float, About("wall time since this launch began", "seconds")]
    tokens: Annotated[int, About("predicted tokens trained on, in the whole run")]


LINES: dict[str, type[JournalLine]] = {
    line.kind: line
    for line in (
        StartLine, StepLine, EvaluationLine, DecisionLine, RollbackLine, CapLine, DeficitLine, JoinLine, RetireLine,
        SkewLine, SpikeLine, NonFiniteLine, CheckpointLine, TestLine, SampleLine, FinishLine, RateLine, RoundLine,
    )
}  # fmt: skip


def from_line(line: Mapping[str, Any]) -> JournalLine:
    """The record of a parsed line; ``UserError`` where it is not one that a run writes."""
    record = LINES.get(str(line.get("kind")))
    if record is None:
        raise UserError(
            "unknown kind of journal line",
            got=line.get("kind"),
            remedy="The journal was written by another version of this program: read it with that one",
        )
    return record.from_line(line)


def read_journal(path: Path, *, warn: Callable[[str], None] = failures.warn) -> Iterator[JournalLine]:
    """The records of a journal, in order, for whoever looks back: lines that cannot be read, as after a flipped byte,
    are passed over, and at the end counted through ``warn`` with the first of them named.

    UserError where there is no such file, and where more lines are unreadable than readable: then the journal is
    another version's, or is none.
    """
    num_read, unreadable = 0, list[UserError]()
    for number, line in parsed_lines(path):
        try:
            record = _record(path, number, line)
        except UserError as error:
            unreadable.append(error)
            continue
        num_read += 1
        yield record
    if not unreadable:
        return
    if num_read < len(unreadable):
        raise unreadable[0]
    count = f"{len(unreadable)} of {num_read + len(unreadable)} lines of {path} cannot be read"
    warn(f"{count} and are left out; the first: {unreadable[0]}")


def _record(path: Path, number: int, line: Mapping[str, Any] | bytes) -> JournalLine:
    if isinstance(line, bytes):
        raise broken_line(path, number, line)
    try:
        return from_line(line)
    except UserError as error:
        raise UserError(error.what, got=error.got, remedy=error.remedy, file=path, line=number) from None
