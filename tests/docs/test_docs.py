"""What README and documentation tell a reader to type works: recipes load, commands run, links lead somewhere.

A shell command that is not run here has its reason in ``NOT_RUN``; a command without either is an error.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.docs.blocks import GUIDES, ROOT, STARTING, blocks, commands
from trainer.recipe import load_recipe

NOT_RUN = {
    r"make \w+$": "targets of the Makefile: test_every_make_target_exists",
    r"\. \.venv/bin/activate$": "changes the shell",
    r"pip install ": "an installation: .ci/set-up does it in every CI run",
    r"(ACCELERATE_USE_CPU=true )?accelerate launch ": "tests/together/test_launch_files.py runs every launch file",
    r"(PL_TRAINER_STRATEGY=\w+ )?torchrun ": "tests/lightning and tests/together run them",
    r"trainer submit ": "needs SLURM: tests/tools/slurm",
    r"python examples/lightning_digits.py": "tests/lightning/test_example.py runs it",
    r"trainer fit RECIPE": "RECIPE is the reader's",
}
FEW_STEPS = ["--set", "training.steps=3", "--set", "training.schedule={kind: cosine, warmup_steps: 1}"]
ALL_RECIPES = blocks(STARTING + GUIDES, "yaml")
WHOLE = [block for block in ALL_RECIPES if block.text.startswith("name:")]
# `mypackage` stands for the reader's own package
PARTS = [block for block in ALL_RECIPES if not block.text.startswith("name:") and "mypackage" not in block.text]


def reason_not_to_run(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command)), None)


TO_RUN = [(name, command) for name, command in commands(STARTING) if reason_not_to_run(command) is None]


def write_data(folder: Path) -> None:
    """books.jsonl and rewritten.jsonl, the files that the recipes of the documentation name, and what guides join."""
    for name, word in {"books": "old", "rewritten": "new", "first": "one", "second": "two", "third": "three"}.items():
        rows = [
            {
                "text": " ".join(f"{word}{(row * 7 + place * place) % 613}" for place in range(60)),
                "title": f"title {row}",
                "genre": f"genre {row % 3}",
            }
            for row in range(2000)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for part in ("validation", "test"):
        shutil.copy(folder / "books.jsonl", folder / f"{part}.jsonl")


def merged(base: dict[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``part``; a section with another ``kind`` is replaced."""
    for key, value in part.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), dict)
        if both and value.get("kind", base[key].get("kind")) == base[key].get("kind"):
            merged(base[key], value)
        else:
            base[key] = value
    return base


def synthesis_of(part: Mapping[str, Any]) -> dict[str, Any]:
    """What a part of `synthesis` needs beside it, and does not bring."""
    generator = part.get("generator", {"kind": "endpoint", "url": "http://127.0.0.1:8000/v1", "model": "writer"})
    prompts = {} if generator["kind"] == "files" else {"prompts": [{"template": "rephrase"}]}
    return {"sources": ["books"], "generator": generator, **prompts}


@pytest.mark.parametrize("block", WHOLE, ids=lambda block: block.name)
def test_a_recipe_of_the_documentation_has_no_mistakes(block: Any, tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "mine.yaml").write_text(block.text)
    assert load_recipe(tmp_path / "mine.yaml").recipe.name == "mine"


@pytest.mark.parametrize("block", PARTS, ids=lambda block: block.name)
def test_a_part_of_a_recipe_fits_into_a_whole_one(block: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "plugin"))
    write_data(tmp_path)
    yaml = YAML(typ="safe")
    part = yaml.load(block.text)
    recipe = yaml.load(WHOLE[0].text)
    if "pretrained" in part.get("model", {}):
        recipe["model"], recipe["data"]["tokenizer"] = {}, {}
    if "pretrained" in part.get("data", {}).get("tokenizer", {}):
        recipe["data"]["tokenizer"] = {}
    if "synthesis" in part:
        recipe["synthesis"] = synthesis_of(part["synthesis"])
    with (tmp_path / "mine.yaml").open("w") as file:
        YAML().dump(merged(recipe, part), file)
    assert load_recipe(tmp_path / "mine.yaml", on_this_machine=False).recipe.name == "mine"


def test_every_command_is_run_or_has_a_reason() -> None:
    unknown = [
        f"{name}: {command}"
        for name, command in commands(GUIDES)
        if reason_not_to_run(command) is None and not command.startswith("trainer ")
    ]
    assert unknown == []


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command.split()[1] for _, command in commands(STARTING) if command.startswith("make ")}
    assert named - targets == set()


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        links = re.findall(r"\]\(([^)#:]+?)(?:#[\w-]+)?\)", (ROOT / page).read_text())
        assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the reader's: the data, and the recipe of Your own data."""
    folder = tmp_path_factory.mktemp("reader")
    write_data(folder)
    (folder / "mine.yaml").write_text(WHOLE[-1].text)
    return folder


def run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_every_command_of_getting_started_works(folder: Path) -> None:
    """Each once: first what copies recipes, then what trains (three steps), then the questions about these runs."""
    first = ("trainer recipes", "trainer fit")
    for command in sorted({command for _, command in TO_RUN}, key=lambda text: [not text.startswith(x) for x in first]):
        words = re.sub(r"--step \d+", "--step 2", command).split()
        assert words[0] == "trainer", command
        few = FEW_STEPS if words[1] == "fit" else []
        process = run([sys.executable, "-m", "trainer", *words[1:], *few], folder)
        assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    for block in blocks(STARTING, "python"):
        process = run([sys.executable, "-c", block.text], folder)
        assert process.returncode == 0, f"{block.name}\n{process.stderr}"


def test_the_site_builds_without_a_warning_and_shows_every_page() -> None:
    shown = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} == shown
    process = run([str(Path(sys.executable).with_name("zensical")), "build", "--strict"], ROOT)
    assert process.returncode == 0, process.stdout + process.stderr
