"""The example does what it says: a bad source of generated digits loses its share by evidence."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.together.launches import by_step, decisions, lines, outcome

EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_digits.py"
PATIENCE_S = 240.0


def run_example(run: Path, *arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, str(EXAMPLE), "--run", str(run), *arguments],
        cwd=EXAMPLE.parents[1],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "weights_only" not in process.stdout + process.stderr, "said of every checkpoint"
    return process.stdout


def test_mislabeled_digits_lose_their_share_and_the_report_tells_why(tmp_path: Path) -> None:
    run = tmp_path / "digits"
    output = run_example(run, "--steps", "200")
    assert "state='finished'" in output
    (line,) = [line for line in decisions(run) if line["shares"]["mislabeled"] < 300_000][:1]
    assert line["action"] == "move"
    assert line["reason"].startswith("Share falls for mislabeled")
    shares = by_step(run, "shares")
    assert shares[line["step"]]["mislabeled"] == 300_000
    assert shares[line["step"] + 1]["mislabeled"] == 10_000
    assert shares[200]["blended"] > 100_000, "a good generator is not cut"
    assert lines(run, "test")[0]["nats_per_token"] < 1.0
    assert outcome(run)["state"] == "finished"
    assert "step=210" in run_example(run, "--steps", "210"), "it resumes"
    assert "Share falls for mislabeled" in (run / "report.html").read_text()


@pytest.mark.slow
def test_two_processes_see_the_same_samples_and_decide_alike(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_example(one, "--steps", "100")
    run_example(two, "--steps", "100", "--devices", "2")
    assert lines(two, "start")[0]["world_size"] == 2
    assert by_step(two, "batch_hash") == by_step(one, "batch_hash")
    assert by_step(two, "counts") == by_step(one, "counts")
    assert [line["shares"] for line in decisions(two)] == [line["shares"] for line in decisions(one)]
