"""A run folder is read as columns of figures, named as the schema names them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.journals import evaluation_line, start_line, step_line
from trainer.base.errors import UserError
from trainer.report.charts import figures
from trainer.report.history import columns, read_history
from trainer.report.metric_charts import PREFIX
from trainer.report.titles import title
from trainer.tracking.figures import HeldOutFigures
from trainer.tracking.journal import Journal
from trainer.tracking.record import fields_of
from trainer.tracking.schema import EvaluationLine, StepLine


def test_columns_are_the_metrics_by_name_with_gaps_where_nothing_was_measured(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(start_line({}))
    for step in (1, 2, 3):
        journal.write(step_line(step, shares={"a": 1_000_000}, counts={"a": 4}, loss=5.0 - step))
        if step == 2:
            journal.write(evaluation_line(step, 3.5, standard_error=0.25))
    journal.close()
    table = columns(tmp_path)
    assert table["step"].tolist() == [1, 2, 3]
    assert table["loss/train"].tolist() == [4.0, 3.0, 2.0]
    assert table["share/a/target"].tolist() == table["share/a/drawn"].tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(table["loss/held_out"]).tolist() == [True, False, True]
    assert (table["loss/held_out"][1], table["loss/held_out_standard_error"][1]) == (3.5, 0.25)
    assert {values.dtype.kind for values in table.values()} == {"f"}
    assert not [name for name in table if name.startswith("test/")]


def test_columns_of_a_folder_without_a_journal_are_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        columns(tmp_path)


def test_a_run_that_died_at_its_start_has_no_rows(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.jsonl").close()
    assert {name: values.tolist() for name, values in columns(tmp_path).items()} == {"step": []}
    assert read_history(tmp_path).last_step == 0


def test_every_single_number_of_the_schema_is_drawn_in_the_report(tell: Callable[..., Path]) -> None:
    """So a figure that is added to the schema needs no change in the report."""
    drawn = set(figures(read_history(tell(steps=60))))
    charted = {"loss/train": "train", "loss/held_out": "held-out", "loss/held_out_standard_error": "held-out"}
    charted["loss/tail"] = "held-out"
    for record in (StepLine, EvaluationLine, HeldOutFigures):
        for about in fields_of(record).values():
            is_measured = about.metric not in ("loss/router", "loss/teacher")  # not of this run
            if isinstance(about.metric, str) and about.metric and "{" not in about.metric and is_measured:
                assert charted.get(about.metric, PREFIX + about.metric) in drawn


def test_a_metric_without_a_title_of_its_own_is_titled_by_the_schema() -> None:
    assert title("metric-learning_rate") == ("Learning rate", "Learning rate of the step.")
    assert title("metric-seconds/evaluation") == ("Seconds, evaluation", "Wall time of the evaluation, seconds.")
    assert title("train")[0] == "Training loss"


def test_a_source_that_joins_the_recipe_later_has_zeros_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write(step_line(1, shares={"a": 1_000_000}, counts={"a": 4}))
    journal.write(replace(step_line(2, shares={"a": 0, "b": 1_000_000}, counts={"a": 0, "b": 4}), loss=math.nan))
    journal.close()
    run = read_history(tmp_path)
    assert run.sources == ("a", "b")
    assert run.steps.shares.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert run.steps.counts.tolist() == [[4, 0], [0, 4]]
    assert run.steps.scalars["grad_norm"].tolist() == [1.0, 1.0]
