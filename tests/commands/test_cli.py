import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def trainer(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, stdin=subprocess.DEVNULL)


def best_seconds(*command: str) -> float:
    """The least of three, of the processor: other work on the machine costs none of it."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def test_help_answers_quickly_and_names_every_command() -> None:
    assert best_seconds("-m", "trainer", "--help") < 0.5
    text = trainer("--help").stdout
    for command in ("fit", "check", "plan", "evaluate", "audit", "explain", "report", "doctor", "submit", "recipes"):
        assert f" {command} " in text
    assert "75" in text


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, trainer.commands.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "accelerate", "scipy", "wandb"} & set(loaded)


def test_loading_a_recipe_imports_neither_torch_nor_transformers(tiny_recipe: Path) -> None:
    code = (
        "import sys; from trainer.recipe import load_recipe;"
        f"load_recipe({str(tiny_recipe)!r}, on_this_machine=False); print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "accelerate", "wandb"} & set(loaded)


def test_check_prints_all_five_mistakes_and_exits_2(tiny_recipe: Path) -> None:
    for old, new in (
        ("micro_batch", "micro_bach"),
        ("hidden_size: 16", "hiden_size: 16"),
        ("path: good.jsonl", "path: gone.jsonl"),
        ("keep: 2", "keep: 0"),
        ("kind: cosine", "kind: cosinus"),
    ):
        text = tiny_recipe.read_text()
        assert old in text
        tiny_recipe.write_text(text.replace(old, new, 1))
    process = trainer("check", tiny_recipe)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    for part in ("micro_bach", "hiden_size", "gone.jsonl", "checkpoint.keep", "cosinus"):
        assert part in process.stderr
    assert all(f"{tiny_recipe}:" in line for line in process.stderr.splitlines() if line)


def test_check_is_content_with_a_good_recipe(tiny_recipe: Path) -> None:
    process = trainer("check", tiny_recipe, "--set", "control={guard: {enabled: false}}")
    assert (process.returncode, process.stderr) == (0, "")
    assert "no mistakes" in process.stdout


def test_check_and_plan_say_before_the_run_what_the_guard_cannot_see_and_what_repeats(tiny_recipe: Path) -> None:
    sets = [word for key in ("training.steps=20000", "evaluation.every_steps=600") for word in ("--set", key)]
    for command in ("check", "plan"):
        text = trainer(command, tiny_recipe, *sets).stderr
        assert "warning: the guard will not judge held-out loss: about " in text
        assert "data.held_out so that it holds out more" in text
        assert "epochs of" in text
    enough = trainer("plan", tiny_recipe, *sets, "--set", "control={guard: {min_documents: 8}}").stderr
    assert "the guard will not judge" not in enough


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_check_and_plan_refuse_a_text_column_that_is_not_there_and_name_those_that_are(
    tiny_recipe: Path, form: str
) -> None:
    file = tiny_recipe.parent / f"good.{form}"
    rows = [{"body": f"words {number}", "title": f"t{number}"} for number in range(80)]
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "csv":
        file.write_text("body,title\n" + "".join(f"{row['body']},{row['title']}\n" for row in rows))
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    for command in ("check", "plan"):
        process = trainer(command, tiny_recipe, "--set", f"data.sources.good.path=good.{form}")
        assert process.returncode == 2, process.stderr
        assert "'text'" in process.stderr
        assert "good" in process.stderr
        assert re.search("body.*title", process.stderr)


def test_bf16_on_a_cpu_that_only_emulates_it_is_said_by_check_and_plan_with_the_remedy(tiny_recipe: Path) -> None:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": ""}

    def errors(*words: str | Path) -> str:
        command = [sys.executable, "-m", "trainer", *map(str, words)]
        process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        return process.stdout + process.stderr

    assert "set training.precision: auto, or fp32" in errors("check", tiny_recipe, "--set", "training.precision=bf16")
    assert "set training.precision: auto, or fp32" in errors("plan", tiny_recipe, "--set", "training.precision=bf16")
    auto = errors("plan", tiny_recipe, "--set", "training.precision=auto")
    assert "set training.precision: auto" not in auto
    assert "fp32" in auto


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("check", "no-such-recipe"), "Shipped: quickstart"),
        (("check", "quickstrat"), "Did you mean 'quickstart'?"),
        (("check", "gone.yaml"), "gone.yaml: the recipe cannot be read"),
        (("plan", "quickstart", "--world-size", "0"), "world-size"),
        (("plan", "quickstart", "--source-tokens", "wikipedia"), "SOURCE=N"),
        (("plan", "quickstart", "--source-tokens", "wiki=3"), "does not name a source"),
        (("plan", "quickstart", "--source-tokens", "wikipedia=nan"), "SOURCE=N"),
        (("plan", "quickstart", "--source-tokens", "wikipedia=-5"), "SOURCE=N"),
        (("plan", "quickstart", "--free-disk-gb", "inf"), "finite"),
        (("plan", "quickstart", "--tokens-per-second", "inf"), "finite"),
        (("fit", "quickstart", "--run", __file__), "--run is not a folder"),
        (("recipes", "--copy", __file__), "this is not one"),
        (("report", "runs/x", "-o", "no/such/folder/report.html"), "--output"),
        (("audit", "runs/x"), "--step N, --sample"),
        (("train",), "train"),
    ],
)
def test_a_mistake_on_the_command_line_is_text_and_exit_2(arguments: tuple[str, ...], text: str) -> None:
    process = trainer(*arguments)
    assert process.returncode == 2
    assert text in process.stderr
    assert "Traceback" not in process.stderr


def test_recipes_are_listed_shown_copied_and_described(tmp_path: Path) -> None:
    assert trainer("recipes").stdout.startswith("quickstart ")
    assert trainer("recipes", "quickstart").stdout.startswith("# trainer fit recipes/quickstart.yaml\n")
    assert json.loads(trainer("recipes", "--schema").stdout)["additionalProperties"] is False
    assert trainer("recipes", "--copy", "mine", cwd=tmp_path).returncode == 0
    assert trainer("check", "mine/quickstart.yaml", cwd=tmp_path).returncode == 0


def test_a_file_that_cannot_be_written_is_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").write_text("a file where the data folder of the recipes should be")
    process = trainer("recipes", "--copy", tmp_path / "mine")
    assert (process.returncode, len(process.stderr.splitlines())) == (1, 1)
    assert str(tmp_path / "mine" / "data") in process.stderr


def test_ctrl_c_is_one_line_and_exit_130(tmp_path: Path) -> None:
    recipe = tmp_path / "slow.yaml"
    os.mkfifo(recipe)  # reading it lasts until the writer closes it
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "fit", str(recipe)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    with recipe.open("w"):  # opens once the command reads
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted by Ctrl-C"
