"""A mutated recipe is accepted or refused in words: never a stack trace."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tests.cases.commands import WarmCommands
from tests.conftest import TINY_RECIPE
from tests.fuzz.recipes import mutated
from trainer.base.errors import UserError
from trainer.recipe import load_recipe
from trainer.recipe.recipe import resolved_yaml
from trainer.tools.probe import probe_model

VARIANTS: tuple[tuple[str, ...], ...] = (
    (),
    (
        "control.policy={kind: priced}",
        "data.held_out={kind: share, source: real, validation: 0.1, test: 0.1}",
        "mixture.max_epochs={real: 4}",
        "tracking.trackers=[{kind: wandb, mode: offline}, {kind: tensorboard}]",
        "training.schedule={kind: wsd, warmup_steps: 1, decay_fraction: 0.3}",
    ),
    (
        "control.policy={kind: feedback, floors: {real: 0.1}}",
        "data.filters=[{kind: length, min_words: 3}, {kind: regex, pattern: a}, {kind: repetition}]",
        "data.sources.bad.filters=[{kind: score, column: topic, minimum: 1}, {kind: exact_duplicate}]",
        "data.sources.good.joins=[{from_step: 3, path: bad.jsonl}]",
        "data.sources.real.sample={by: title, of: 5, buckets: [0, 1, 2]}",
        "data.sources.real.where={topic: [rivers, towns]}",
    ),
    (
        "control.policy={kind: schedule, points: [{at: 1.0, shares: {real: 0.4, good: 0.3, bad: 0.3}}]}",
        "data.held_out={kind: dataset, test: {kind: real, path: bad.jsonl}, "
        "validation: {kind: real, path: good.jsonl}}",
        "data.sources.good.streaming=true",
        "model={architecture: gpt2, config: {n_embd: 16, n_layer: 1, n_head: 2}, gradient_checkpointing: true}",
    ),
    (
        "data.machine_text={real: {path: bad.jsonl}, machine: [good]}",
        "mixture.shares=auto",
        "synthesis={pool: pool, sources: [real], every: 4, source: made, requests: 8, generator: {kind: run}, "
        "prompts: [{template: rephrase}], gate: {}, near_duplicates: {}, memorized: {}, "
        "filters: [{kind: personal_data}, {kind: near_duplicate}], graders: [{kind: grounding}]}",
    ),
    (
        "synthesis={pool: pool, sources: [real], stitch: 2, samples_per_row: 2, paths: {}, prices: {}, max_cost: 1, "
        "generator: {kind: endpoint, url: 'http://127.0.0.1:1/v1', model: m}, "
        "prompts: [{template: textbook, turns: [critique, revise], principles: [short]}], "
        "graders: [{kind: judge, model: {kind: endpoint, url: 'http://127.0.0.1:1/v1', model: m}}]}",
    ),
)
pytestmark = pytest.mark.kind("mutated recipe")
CALM = {
    "suppress_health_check": list(HealthCheck),
    "deadline": None,
    "phases": [Phase.generate],
}  # nothing is shrunk: a command is slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and its data files, a row each."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in ("real", "good", "bad"):
        (folder / f"{name}.jsonl").write_text('{"title": "a", "topic": "rivers", "text": "a b c"}\n')
    (folder / "tiny.yaml").write_text(TINY_RECIPE)
    return folder


@pytest.fixture(scope="module")
def recipes(folder: Path) -> st.SearchStrategy[dict[str, Any]]:
    """Mutations of the recipe and its variants, with every default written out."""
    reader = YAML(typ="safe", pure=True)
    trees = [
        reader.load(resolved_yaml(load_recipe(folder / "tiny.yaml", list(variant), on_this_machine=False).recipe))
        for variant in VARIANTS
    ]
    return st.sampled_from(trees).flatmap(mutated)


def check_as_a_value(tree: dict[str, Any]) -> None:
    """`trainer check` without its command line: anything but a UserError is raised."""
    with contextlib.suppress(UserError):
        probe_model(load_recipe(tree))


def check_as_a_file(tree: dict[str, Any], folder: Path, commands: WarmCommands) -> None:
    """`trainer check FILE` in a process of its own."""
    file = folder / "mutated.yaml"
    writer: Any = YAML(typ="safe", pure=True)
    with file.open("w", encoding="utf-8") as stream:
        writer.dump(tree, stream)
    ended = commands.run(["check", str(file)], folder=folder, environment={}, streams=folder)
    assert ended.exit_code in (0, 2), ended
    assert ended.text
    assert "Traceback" not in ended.text, ended


@pytest.mark.parametrize(
    "count", [pytest.param(200, id="hundreds"), pytest.param(4000, id="thousands", marks=pytest.mark.slow)]
)
def test_no_recipe_given_as_a_value_ends_in_a_stack_trace(
    recipes: st.SearchStrategy[dict[str, Any]], count: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    @settings(max_examples=count, derandomize=True, **CALM)
    @given(tree=recipes)
    def run(tree: dict[str, Any]) -> None:
        check_as_a_value(tree)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000])
def test_no_recipe_in_a_file_ends_the_command_in_a_stack_trace(
    recipes: st.SearchStrategy[dict[str, Any]], count: int, folder: Path, warm_commands: WarmCommands
) -> None:
    @settings(max_examples=count, derandomize=True, **CALM)
    @given(tree=recipes)
    def run(tree: dict[str, Any]) -> None:
        check_as_a_file(tree, folder, warm_commands)

    run()
