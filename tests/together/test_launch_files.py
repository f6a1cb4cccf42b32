"""The launch files say where a run runs, and nothing about what is trained."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.together.launches import Place, lines

FILES = sorted((Path(__file__).parents[2] / "launch" / "accelerate").glob("*.yaml"))
# What a launch file may say. Everything else is the recipe's, above all batch, clipping and steps.
PLACES = {
    "compute_environment",
    "distributed_type",
    "gpu_ids",
    "main_process_port",
    "mixed_precision",
    "num_machines",
    "num_processes",
}


def test_there_are_launch_files() -> None:
    assert {file.stem for file in FILES} == {"cpu_processes", "ddp", "one_gpu"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_launch_file_opens_with_its_command_and_leaves_to_the_recipe_what_is_the_recipes(file: Path) -> None:
    command = file.read_text(encoding="utf-8").splitlines()[0]
    assert f"accelerate launch --config_file launch/accelerate/{file.name} " in command
    assert command.endswith(" -m trainer fit RECIPE")
    settings = YAML(typ="safe").load(file)
    assert set(settings) <= PLACES
    assert settings["mixed_precision"] == "no"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "processes"),
    [("cpu_processes", [], 2), ("ddp", ["--num_processes", "2"], 2), ("one_gpu", [], 1)],
)
def test_a_launch_file_starts_the_processes_it_says(
    place: Place, name: str, options: list[str], processes: int
) -> None:
    file = next(file for file in FILES if file.stem == name)
    run = place.folder / name
    extra = {"ACCELERATE_USE_CPU": "true"}
    sets = ("training.steps=3", "training.schedule.warmup_steps=1")
    ended = place.launch(run, *sets, options=["--config_file", str(file), *options], extra=extra).wait()
    assert ended.code == 0, ended.output
    assert [line["step"] for line in lines(run, "step")] == [1, 2, 3]
    assert lines(run, "start")[0]["world_size"] == processes
