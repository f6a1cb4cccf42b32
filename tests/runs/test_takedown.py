"""A run that resumes after a takedown draws nothing that was taken down, and its past stays what it was."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.cases.commands import Ended
from tests.synthesis.pools import publish, row
from trainer.mixture.ledger import Retire, Segment
from trainer.tools.audit import hashes_agree
from trainer.tools.pool.uses import samples_of
from trainer.tools.run_view import open_run

LONG = "some words of a text that goes on for quite a while so that it fills a part of a sample by itself"
RECIPE_STEPS, MORE_STEPS = 3, 8


def test_a_resumed_run_draws_nothing_that_was_taken_down(trainer: Callable[..., Ended], tiny_recipe: Path) -> None:
    folder, run = tiny_recipe.parent, tiny_recipe.parent / "run"
    rows = [
        row(f"n{n}", text=f"{n} {LONG} {n * 7}", source_id=f"r{n % 5}", parents=[f"real:r{n % 5}"]) for n in range(40)
    ]
    publish(folder / "pool", 1, rows)
    sets = ["--set", "data.sources.good.path=pool/rows", "--run", run, "--set"]
    trainer("fit", tiny_recipe, *sets, f"training.steps={RECIPE_STEPS}")
    before = open_run(run)
    past = [before.batch(step) for step in range(1, RECIPE_STEPS + 1)]
    done = json.loads(trainer("takedown", run, "--document", "real:r2", "--json").stdout)
    taken = set(done["taken_down"][0]["rows"])
    assert len(taken) == 8
    for steps in (MORE_STEPS, MORE_STEPS + 2):  # the second time there is nothing left to take out
        trainer("fit", tiny_recipe, *sets, f"training.steps={steps}")
        after = open_run(run)
        facts = [fact for fact in after.plan.ledger.facts if isinstance(fact, Segment | Retire) and fact.step > 1]
        assert [(type(fact), fact.step, fact.source, fact.segment) for fact in facts] == [
            (Segment, RECIPE_STEPS + 1, "good", 1), (Retire, RECIPE_STEPS + 1, "good", 0),
        ]  # fmt: skip
        assert [after.batch(step) for step in range(1, RECIPE_STEPS + 1)] == past
        data = after.prepared()
        assert data is not None
        forbidden = set(samples_of(data, taken))
        assert forbidden
        assert {source for source, _, _ in forbidden} == {"good"}
        assert {segment for _, segment, _ in forbidden} == {0}
        drawn = {
            (slot.source, slot.segment, slot.sample)
            for step in range(RECIPE_STEPS + 1, steps + 1)
            for slot in after.batch(step)
        }
        assert not drawn & forbidden
        assert any(source == "good" for source, _, _ in drawn)
        assert all(hashes_agree(after, step) for step in range(1, steps + 1))
        old, new = data.sources["good"].segments
        kept = {str(old.describe(n)["id"]) for n in range(old.num_documents)} - taken
        assert {str(new.describe(n)["id"]) for n in range(new.num_documents)} == kept
