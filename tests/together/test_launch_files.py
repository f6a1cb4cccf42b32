"""The launch files say where a run runs, and nothing about what is trained; a launch that says more is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.sharing import free_port
from tests.together.launches import Place, by_step, lines, predicted
from tests.together.parity import LAUNCH_FILES, launch
from trainer.commands.fit import BAD_INPUT

LAUNCH = Path(__file__).parents[2] / "launch"
FILES = sorted((LAUNCH / "accelerate").glob("*.yaml"))
DEEPSPEED_FILES = sorted((LAUNCH / "deepspeed").glob("*.json"))
SEVERAL_MACHINES = {"multi_node"}
# What a launch file may say. Everything else is the recipe's, above all batch, clipping and steps.
PLACES = {
    "compute_environment",
    "deepspeed_config",
    "distributed_type",
    "fsdp_config",
    "gpu_ids",
    "main_process_port",
    "mixed_precision",
    "num_machines",
    "num_processes",
    "rdzv_backend",
    "same_network",
    "use_cpu",
}
DEEPSPEED_PLACES = {"deepspeed_config_file", "zero3_init_flag"}
FSDP_PLACES = {
    "fsdp_auto_wrap_policy",
    "fsdp_cpu_ram_efficient_loading",
    "fsdp_offload_params",
    "fsdp_reshard_after_forward",
    "fsdp_version",
}


def settings_of(file: Path) -> dict[str, Any]:
    settings: dict[str, Any] = YAML(typ="safe").load(file)
    return settings


def test_there_is_a_launch_file_for_every_engine_and_place() -> None:
    assert {file.stem for file in FILES} == set(LAUNCH_FILES) | SEVERAL_MACHINES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_launch_file_opens_with_its_command_and_leaves_to_the_recipe_what_is_the_recipes(file: Path) -> None:
    command = file.read_text(encoding="utf-8").splitlines()[0]
    assert f"accelerate launch --config_file launch/accelerate/{file.name} " in command
    assert command.endswith(" -m trainer fit RECIPE")
    settings = settings_of(file)
    assert set(settings) <= PLACES
    assert set(settings.get("fsdp_config", {})) <= FSDP_PLACES
    assert set(settings.get("deepspeed_config", {})) <= DEEPSPEED_PLACES
    # where a DeepSpeed file is given, Accelerate takes the precision for a contradiction, even 'no'
    assert settings.get("mixed_precision") == (None if "deepspeed_config" in settings else "no")


def test_a_deepspeed_file_says_what_is_spread_and_nothing_of_the_recipes() -> None:
    named = {
        settings["deepspeed_config"]["deepspeed_config_file"]
        for settings in map(settings_of, FILES)
        if "deepspeed_config" in settings
    }
    assert named == {f"launch/deepspeed/{file.name}" for file in DEEPSPEED_FILES}
    for file in DEEPSPEED_FILES:
        settings = json.loads(file.read_text(encoding="utf-8"))
        assert set(settings) == {"zero_optimization"}
        assert file.stem.startswith(f"zero{settings['zero_optimization']['stage']}")


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCH_FILES)
def test_a_launch_file_starts_the_processes_it_says_and_trains_to_the_end(place: Place, name: str) -> None:
    run = place.folder / name
    ended = launch(place, name, run, "training.steps=3", "training.schedule.warmup_steps=1")
    assert ended.code == 0, ended.output
    assert [line["step"] for line in lines(run, "step")] == [1, 2, 3]
    assert lines(run, "start")[0]["world_size"] == LAUNCH_FILES[name][0]
    assert (run / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_file_for_several_machines_trains_one_run_on_two(place: Place, alone: Path) -> None:
    run, port = place.folder / "machines", free_port()
    where = f"--main_process_ip 127.0.0.1 --main_process_port {port} --num_machines 2 --num_processes 2".split()
    machines = [
        place.launch(
            run,
            "training.steps=12",
            options=["--config_file", "launch/accelerate/multi_node.yaml", "--machine_rank", rank, *where],
            extra={"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""},
        )
        for rank in ("0", "1")
    ]
    for machine in machines:
        ended = machine.wait()
        assert ended.code == 0, ended.output
    assert lines(run, "start")[0]["world_size"] == 2
    assert {step: int(batch_hash) for step, batch_hash in by_step(run, "batch_hash").items()} == predicted(run)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "accumulation": ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps"),
    "batch": ({"train_micro_batch_size_per_gpu": 7}, "train_micro_batch_size_per_gpu"),
    "whole batch": ({"train_batch_size": 64}, "train_batch_size"),
    "clipping": ({"gradient_clipping": 0.25}, "gradient_clipping"),
    "schedule": ({"scheduler": {"type": "WarmupLR"}}, "scheduler"),
    "optimizer": ({"optimizer": {"type": "AdamW"}}, "optimizer"),
    "precision": ({"bf16": {"enabled": True}}, "bf16.enabled"),
    "stage": ({"zero_optimization": {"stage": 0}}, "ZeRO stage 0"),
    "no disk": ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "offload_param"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_deepspeed_file_that_says_what_is_the_recipes_is_refused_before_anything_is_prepared(
    place: Place, tmp_path: Path, case: str
) -> None:
    more, named = REFUSED[case]
    file, run = tmp_path / "ds.json", tmp_path / "run"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}, **more}))
    extra = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    ended = place.fit(run, extra=extra).wait()
    assert ended.code == BAD_INPUT, ended.output
    assert named in ended.output
    assert "Traceback" not in ended.output
    assert not (run / "journal.jsonl").exists()


@pytest.mark.parametrize("variables", [{"FSDP_VERSION": "1"}, {}], ids=["said", "Accelerate's default"])
def test_fsdp_1_is_refused_before_anything_is_prepared(place: Place, tmp_path: Path, variables: dict[str, str]) -> None:
    ended = place.fit(tmp_path / "run", extra={"ACCELERATE_USE_FSDP": "true", **variables}).wait()
    assert ended.code == BAD_INPUT, ended.output
    assert "FSDP version 1 is not supported" in ended.output
    assert "fsdp_version: 2" in ended.output
    assert not (tmp_path / "run" / "journal.jsonl").exists()
