"""Every line of the journal is a record: it comes back as it was written, and one place describes each field."""

import json
import math
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.journals import evaluation_line, start_line, step_line
from trainer.base.errors import UserError
from trainer.base.records import Decision, Forgetting, GradientAlignment, SourceLoss, SourceValue, StepFigures
from trainer.tracking.figures import SliceDrawn, SliceLoss, SourceFacts, StepMixture, WorstSlice
from trainer.tracking.headlines import headline
from trainer.tracking.journal import read
from trainer.tracking.record import JournalLine, fields_of
from trainer.tracking.round_line import RoundLine
from trainer.tracking.schema import (
    LINES,
    CapLine,
    CheckpointLine,
    DecisionLine,
    DeficitLine,
    FinishLine,
    JoinLine,
    NonFiniteLine,
    RateLine,
    RetireLine,
    RollbackLine,
    SampleLine,
    SkewLine,
    SpikeLine,
    TestLine,
    from_line,
    read_journal,
)

FULL = evaluation_line(
    50, 3.5, standard_error=0.02, tail_nats_per_token=4.4, worst_slice=WorstSlice(name="b", bits_per_byte=2.0),
    slices={"b": SliceLoss(nats_per_token=4.0, bits_per_byte=2.0, documents=3, tokens=90)},
    source_nats_per_token={"real": 3.1},
)  # fmt: skip
EVERY: list[JournalLine] = [
    replace(start_line({"real": SourceFacts(kind="real", num_samples=4)}), rows={"real": {}}, store="store/x"),
    step_line(3, shares={"real": 400_000, "made": 600_000}, counts={"real": 1, "made": 3}, source_loss={"real": 2.0}),
    replace(
        FULL,
        source_value={"made": SourceValue(value=-0.5, standard_error=0.1, num_samples=64, fresh_gain=1e-4)},
        gradient_alignment={
            "made": GradientAlignment(inner_product=1.5, standard_error=0.2, variance=9.0, num_samples=32)
        },
        forgetting={"made": Forgetting(value=0.01, standard_error=0.002, num_samples=8)},
        drawn_slices={"b": SliceDrawn(real=0.4, drawn=0.1)},
        drawn_unnamed=0.25,
    ),
    DecisionLine(
        step=50, policy="priced", from_step=51, action="move", shares={"real": 1_000_000}, reason="why",
        evidence={"policy": {"price": 0.5}},
    ),
    RollbackLine(step=60, to_step=40, reason="the tail got worse"),
    CapLine(step=61, source="real", epochs=4.0, shares={"real": 0, "made": 1_000_000}),
    DeficitLine(step=61, source="real", before_millionths=1_200_000, after_millionths=1_000_000),
    JoinLine(step=62, source="real", segment=1, num_samples=900),
    RetireLine(step=63, source="real", segment=0),
    SkewLine(step=75, slice="b", real=0.4, drawn=0.137),
    SpikeLine(step=76, loss=9.0, grad_norm=30.0, median=3.0, spread=0.1, samples=["real:0:5"]),
    NonFiniteLine(step=77, loss=math.inf, grad_norm=math.inf, samples=["real:0:6"]),
    CheckpointLine(step=80, folder="step-00000080", seconds=1.5, stalled_seconds=0.5, bytes=1 << 20),
    TestLine(step=90, figures=FULL.figures),
    SampleLine(step=90, prompt="The", text=" end"),
    FinishLine(step=90, state="finished", reason="all 90 steps are done", seconds=12.5, tokens=5760),
    RateLine(
        step=60, learning_rate_before=1e-5, learning_rate_by_schedule=5e-4, learning_rate=1e-5, choice="hold"
    ),
    RoundLine(
        step=64, generation=2, state="joined", source="made", reason="drawn from step 65 on", segment=1, num_samples=40,
        record={"requests": 12, "accepted": 9, "dropped": {"duplicate: same words": 3}},
    ),
]  # fmt: skip


def test_there_is_an_example_of_every_kind() -> None:
    assert [type(line) for line in EVERY] == list(LINES.values())


@pytest.mark.parametrize("line", EVERY, ids=lambda line: line.kind)
def test_a_line_comes_back_from_the_file_as_the_record_that_was_written(line: JournalLine) -> None:
    record_line = line.to_line()
    assert (record_line["kind"], record_line["step"]) == (line.kind, line.step)
    assert from_line(json.loads(json.dumps(record_line, allow_nan=False))) == line


@pytest.mark.parametrize("line", EVERY, ids=lambda line: line.kind)
def test_a_field_that_is_missing_is_an_error_that_names_it(line: JournalLine) -> None:
    required = [field for field in fields(line) if field.default is MISSING and field.default_factory is MISSING]
    for field in required:
        record_line = line.to_line()
        record_line.pop(
            field.name if field.name in record_line else next(iter(fields_of(type(getattr(line, field.name)))))
        )
        with pytest.raises(UserError, match=f"a line of kind '{line.kind}'.*{field.name}.*field required"):
            from_line(record_line)


def test_a_number_that_is_none_and_a_kind_that_nobody_writes_are_errors() -> None:
    with pytest.raises(UserError, match="at step 3: loss: input should be a valid number"):
        from_line({**EVERY[1].to_line(), "loss": "many"})
    with pytest.raises(UserError, match="unknown kind of journal line"):
        from_line({"kind": "stp", "step": 1})


def test_losses_that_are_not_numbers_come_back_as_they_were() -> None:
    line = from_line(json.loads(json.dumps(step_line(1, shares={}, loss=math.nan, grad_norm=-math.inf).to_line())))
    assert math.isnan(line.loss)  # type: ignore[attr-defined]
    assert line.grad_norm == -math.inf  # type: ignore[attr-defined]


def test_held_out_figures_and_mixture_stand_in_the_line_itself() -> None:
    assert FULL.to_line()["nats_per_token"] == 3.5
    assert FULL.to_line()["slices"] == {
        "b": {"nats_per_token": 4.0, "bits_per_byte": 2.0, "documents": 3, "tokens": 90}
    }
    assert EVERY[1].to_line()["shares"] == {"real": 400_000, "made": 600_000}
    assert not {"figures", "mixture"} & {key for line in EVERY for key in line.to_line()}


def test_every_field_says_what_it_holds() -> None:
    for record in LINES.values():
        assert all(about.description or about.inline for about in fields_of(record).values())


def test_metrics_are_named_and_converted_by_the_schema() -> None:
    step, evaluation = EVERY[1].metrics(), EVERY[2].metrics()
    assert step["loss/train"] == 4.0
    assert (step["share/made/target"], step["share/made/drawn"]) == (0.6, 0.75)
    assert step["loss/train/real"] == 2.0
    assert "batch_hash" not in step
    assert evaluation == {
        "loss/held_out": 3.5, "loss/held_out_standard_error": 0.02, "bits_per_byte/held_out": 3.5 * 0.45,
        "loss/tail": 4.4, "loss/slice/b": 4.0, "loss/source/real": 3.1, "source_value/made": -0.5,
        "source_value/made/standard_error": 0.1, "alignment/made": 1.5, "alignment/made/standard_error": 0.2,
        "gradient_variance/made": 9.0, "forgetting/made": 0.01, "forgetting/made/standard_error": 0.002,
        "seconds/evaluation": 1.0,
    }  # fmt: skip
    assert EVERY[3].metrics() == {"share/real/target": 1.0}


def test_test_figures_are_never_plotted_as_those_that_steer() -> None:
    steering = EVERY[2].metrics()
    test = EVERY[13].metrics()
    assert test["test/loss/held_out"] == 3.5
    assert not set(test) & set(steering)


def test_the_line_of_a_step_has_all_its_figures() -> None:
    figures = StepFigures(
        router_loss=1.25,
        teacher_divergence=0.5,
        loss=2.5,
        grad_norm=0.7,
        updated=False,
        batch_hash=2**64 - 1,
        stop_requested=False,
        ledgers_agree=True,
        losses=(),
    )
    mixture = StepMixture(counts={"real": 4}, shares={"real": 1_000_000}, epochs={"real": 0.1})
    losses = {"real": SourceLoss(loss_sum_nats=10.0, tokens=4)}
    line = type(EVERY[1]).of(  # type: ignore[attr-defined]
        figures, step=7, mixture=mixture, losses=losses, learning_rate=1e-3, tokens=4, seconds=0.5
    )
    assert line.to_line() == {
        "router_loss": 1.25,
        "teacher_divergence": 0.5,
        "kind": "step", "step": 7, "loss": 2.5, "source_loss": {"real": 2.5}, "learning_rate": 1e-3, "grad_norm": 0.7,
        "tokens": 4, "counts": {"real": 4}, "shares": {"real": 1_000_000}, "epochs": {"real": 0.1},
        "batch_hash": str(2**64 - 1), "updated": False, "seconds": 0.5,
    }  # fmt: skip


def test_the_line_of_a_decision_says_which_policy_decided() -> None:
    shares = {"real": 1_000_000}
    decision = Decision(from_step=9, action="keep", shares=shares, reason="r", policy="feedback", evidence={"x": 1})
    line = DecisionLine.of(decision, step=8)
    assert (line.step, line.from_step, line.policy, line.evidence) == (8, 9, "feedback", {"x": 1})


def test_events_have_a_headline_and_figures_have_none() -> None:
    silent = {line.kind for line in EVERY if not headline(line)}
    assert silent == {"start", "step", "evaluation", "checkpoint", "test", "sample", "finish"}
    assert headline(EVERY[5]) == "real has reached its cap of 4 epochs -> real 0 %, made 100 %"
    assert headline(EVERY[6]) == "the deficit of real was clipped from 1.200 to 1.000 samples"
    assert headline(EVERY[9]) == "slice b is 13.7 % of what was drawn, 40 % of the real data"
    assert headline(EVERY[-2]).endswith("by the schedule at the next; hold: 1e-05")
    resumed: Any = replace(EVERY[0], resumed_from="step-00000040")  # type: ignore[call-arg]
    assert headline(resumed) == "resumed from step-00000040, 1 processes"


def test_a_whole_run_folder_is_read_as_records(tell: Callable[..., Path]) -> None:
    path = tell(steps=60) / "journal.jsonl"
    lines = list(read_journal(path))
    assert [line.to_line() for line in lines] == list(read(path))
