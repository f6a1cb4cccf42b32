"""What a terminal gets from the real commands, whatever the data hold, whatever it can show, read or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.together.launches import Place, variables, write_recipe

EVIL = "\x1b]0;title\x07\x1b[2J\x9b31m"
STEPS = [
    word
    for key in (
        "training.steps=4",
        "training.schedule={kind: constant}",
        "control.policy={kind: constant}",
        "evaluation={every_steps: 2}",
    )
    for word in ("--set", key)
]


def command(place: Place, *arguments: str | Path, stdout: int = subprocess.PIPE, **extra: str) -> tuple[int, str, str]:
    environment = {**os.environ, **variables(place.folder / "cache"), **extra}
    words = [sys.executable, "-m", "trainer", *map(str, arguments)]
    process = subprocess.Popen(words, stdout=stdout, stderr=subprocess.PIPE, env=environment, cwd=place.folder)
    output, errors = process.communicate(timeout=200)
    return process.returncode, (output or b"").decode(), errors.decode()


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Data whose texts, ids and slices hold control characters."""
    folder = tmp_path_factory.mktemp("evil")
    recipe = write_recipe(folder)
    for name in ("real", "good", "bad"):
        file = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        evil_rows = ({key: f"{EVIL}{value} {EVIL}" for key, value in row.items()} for row in rows)
        file.write_text("".join(json.dumps(row) + "\n" for row in evil_rows))
    return Place(folder, recipe)


def test_control_characters_of_data_are_printed_escaped_by_every_command_also_where_a_terminal_shows_ascii(
    evil: Place,
) -> None:
    code, *printed = command(evil, "fit", evil.recipe, "--run", "run", *STEPS, PYTHONIOENCODING="ascii")
    assert code == 0, printed
    assert "\\x1b]0;title" in printed[0]
    for words in (
        ["audit", "run", "--step", "1"],
        ["audit", "run", "--sample", f"real:{EVIL}no such"],
        ["evaluate", "run"],
        ["explain", "run"],
        ["fit", str(evil.recipe), "--set", f"data.sources.real.slice={EVIL}"],
    ):
        ended = evil.command(*(str(evil.folder / "run") if word == "run" else word for word in words)).wait()
        assert ended.code in (0, 2)
        printed.append(ended.output)
    shown = "".join(printed)
    assert not [sign for sign in shown if (ord(sign) < 32 and sign not in "\n\t") or 127 <= ord(sign) < 160]


@pytest.mark.parametrize(
    "words",
    [
        ["report", "RUN", "-o", "report.html"],
        ["explain", "RUN"],
        ["audit", "RUN", "--step", "3"],
        ["plan", "together.yaml"],
        ["recipes"],
        pytest.param(["doctor"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_command_into_a_closed_pipe_is_quiet(place: Place, alone: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code, _, errors = command(place, *(str(alone) if word == "RUN" else word for word in words), stdout=writing)
    finally:
        os.close(writing)
    told = [line for line in errors.splitlines() if not line.startswith("warning: ")]  # of the recipe, not of the pipe
    assert (code, told) == (0, [])
