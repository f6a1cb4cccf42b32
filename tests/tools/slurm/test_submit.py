"""A run submitted to a real SLURM of two nodes: it trains on the same samples as anywhere, and tells where it is."""

import json
from pathlib import Path

import pytest

from tests.together.launches import Ended, Place, by_step, lines, outcome
from tests.tools.slurm.cluster import TWO_NODES, Cluster, events, said, submitted
from trainer.commands.cli import BAD_INPUT


class Submitted:
    """A job that has run to its end, and what a second submission was told while the first was alive."""

    def __init__(self, slurm: Cluster, place: Place) -> None:
        self.run = place.folder / "run"
        self.job = submitted(slurm.submit(place, self.run))
        self.again = slurm.submit(place, self.run)
        self.state = slurm.wait(self.job)


@pytest.fixture(scope="module")
def submission(slurm: Cluster, place: Place) -> Submitted:
    return Submitted(slurm, place)


@pytest.fixture(scope="module")
def twin(place: Place, submission: Submitted) -> Path:
    """One process that replays the decisions."""
    run = place.folder / "twin"
    ended = place.fit(run, more=["--ledger", str(submission.run)]).wait()
    assert ended.code == 0, ended.output
    return run


def test_two_nodes_train_to_the_end_on_the_samples_of_a_single_process(submission: Submitted, twin: Path) -> None:
    assert submission.state == "COMPLETED", said(submission.run)
    assert outcome(submission.run)["state"] == "finished"
    assert lines(submission.run, "start")[0]["world_size"] == 2
    assert list(by_step(twin, "batch_hash")) == list(range(1, 51))
    assert by_step(submission.run, "batch_hash") == by_step(twin, "batch_hash")


def test_the_job_can_be_found_from_the_journal(submission: Submitted) -> None:
    environment = lines(submission.run, "start")[0]["environment"]
    assert (environment["slurm_job"], environment["slurm_nodes"], environment["host"]) == (
        submission.job,
        "node[1-2]",
        "node1",
    )


def test_each_node_and_each_rank_has_a_log_of_its_own(submission: Submitted) -> None:
    logs = submission.run / "slurm" / f"{submission.job}-0"
    assert "step" in (logs / "node-0.log").read_text()
    assert (logs / "node-1.log").exists()
    assert len(list(logs.glob("ranks-of-node-[01]/*/attempt_0/0/stdout.log"))) == 2


def test_a_second_job_on_a_run_folder_is_refused_while_the_first_is_alive(submission: Submitted) -> None:
    assert submission.again.code == BAD_INPUT
    assert f"already has job {submission.job}" in submission.again.output
    assert f"--dependency afterany:{submission.job}" in submission.again.output
    assert [event["event"] for event in events(submission.run)] == ["submit", "start", "end"]


def test_status_tells_job_and_run(slurm: Cluster, place: Place, submission: Submitted) -> None:
    ended = place.command("submit", "--status", str(submission.run), "--json", extra=slurm.variables).wait()
    (status,) = json.loads(ended.output)
    assert (status["job"], status["state"], status["restarts"]) == (submission.job, "COMPLETED", 0)
    assert (status["step"], status["steps"], status["checkpoint"], status["outcome"]) == (
        50,
        50,
        "step-00000050",
        "finished",
    )
    in_words = place.command("submit", "--status", str(submission.run), extra=slurm.variables).wait().output
    for words in (f"{submission.job}  COMPLETED", "50 of 50", "finished: all 50 steps are done", f"{submission.job}-0"):
        assert words in in_words


def test_a_finished_run_is_not_submitted_again(slurm: Cluster, place: Place, submission: Submitted) -> None:
    ended = slurm.submit(place, submission.run)
    assert (ended.code, len(events(submission.run, "submit"))) == (0, 1)
    assert "is finished" in ended.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--nodes", "5", "--gpus-per-node", "0"], "node configuration is not available"),
        (["--nodes", "1", "--gpus-per-node", "9"], "node configuration is not available"),
        ([*TWO_NODES, "--partition", "nope"], "invalid partition"),
        ([*TWO_NODES, "--constraint", "a100"], "Invalid feature"),
        ([*TWO_NODES, "--container", "some/image:1"], "no option --container-image"),
    ],
)
def test_what_slurm_would_never_start_is_refused_immediately(
    slurm: Cluster, place: Place, more: list[str], message: str
) -> None:
    run = place.folder / "never"
    ended: Ended = slurm.submit(place, run, nodes=more)
    assert ended.code == BAD_INPUT, ended.output
    assert message in ended.output
    assert events(run) == []
    assert slurm.ask("squeue", "-h", "-n", "together", "-t", "PENDING") == ""
