"""The mixture for a user's own LightningModule: exact, immediate, resumable, guarded, and about any kind of sample."""

import csv
import json
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy
from torch.utils.data import default_collate

from tests.lightning.small import GLOBAL_BATCH, Module, Points, losses, new_mixture, new_steering, new_trainer, trained
from tests.together.launches import by_step, decisions, lines, outcome
from trainer.base.errors import UserError
from trainer.lightning.checks import check_trainer
from trainer.lightning.datamodule import batch_hash, sample_hash
from trainer.lightning.devices import TrainerDevices
from trainer.mixture.ledger import Ledger, Rollback, from_record
from trainer.mixture.plan import Plan
from trainer.training.record_step import NonFiniteError

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, about itself

EVIDENCE = {"enabled": "on", "every_evaluations": 1, "samples_per_step": 4, "held_out_samples": 80, "until": 1.0}


def ledger_of(run: Path) -> Ledger:
    return Ledger([from_record(record) for record in lines(run, file="ledger.jsonl")])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Module]:
    """30 uninterrupted steps."""
    run = tmp_path_factory.mktemp("alone") / "run"
    return run, trained(run)[0]


def test_a_decision_after_step_n_governs_batch_n_plus_1(alone: tuple[Path, Module]) -> None:
    run, _ = alone
    moves = [line for line in decisions(run) if line["action"] == "move"]
    assert [line["step"] for line in moves] == [5, 10, 15, 20, 25]
    shares, counts = by_step(run, "shares"), by_step(run, "counts")
    for line in moves:
        assert shares[line["step"] + 1] == line["shares"] != shares[line["step"]]
    plan = Plan(5, ledger_of(run))
    for step, count in counts.items():
        drawn = [plan.sources[k] for k in plan.batch(step).source]
        assert count == {name: drawn.count(name) for name in plan.sources}
    for name in ("good", "bad"):  # exact: within one sample of the integral of the share
        wanted = sum(shares[step][name] for step in shares) * GLOBAL_BATCH / 1e6
        assert sum(count[name] for count in counts.values()) == pytest.approx(wanted, abs=1.001 + len(moves))


def test_what_was_handed_to_the_module_is_what_the_plan_and_the_batch_hash_say(tmp_path: Path) -> None:
    batches: list[torch.Tensor] = []

    class Watched(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            batches.append(batch["vector"].clone())
            return super().training_step(batch, batch_idx)

    run = tmp_path / "run"
    trained(run, module=Watched(), max_steps=12)
    plan, mixture = Plan(5, ledger_of(run)), new_mixture()
    for step, journaled in by_step(run, "batch_hash").items():
        assert int(journaled) == batch_hash(mixture, plan.batch(step), plan.sources)
        rows = mixture.rows(plan.batch(step), range(GLOBAL_BATCH), plan.sources)
        expected = torch.stack([row["vector"] for row in rows])
        assert torch.equal(expected, batches[step - 1])


def test_accumulated_batches_make_the_same_steps(tmp_path: Path, alone: tuple[Path, Module]) -> None:
    run = tmp_path / "run"
    trained(run, accumulate_grad_batches=3)
    assert by_step(run, "batch_hash") == by_step(alone[0], "batch_hash")
    assert [line["shares"] for line in decisions(run)] == [line["shares"] for line in decisions(alone[0])]
    assert list(by_step(run, "loss")) == list(range(1, 31))


def test_a_run_stopped_by_a_signal_resumes_bit_for_bit(tmp_path: Path, alone: tuple[Path, Module]) -> None:
    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 12:
                os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    _, first = trained(run, callbacks=[Stop()])
    assert first.outcome is not None
    assert (first.outcome.state, outcome(run)["exit_code"]) == ("interrupted", 75)
    assert 12 < first.outcome.step < 20, "not at a step where a checkpoint is due anyway"
    module, second = trained(run)
    assert second.outcome is not None
    assert second.outcome.state == "finished"
    for field in ("batch_hash", "loss", "grad_norm", "learning_rate", "counts"):
        assert by_step(run, field) == by_step(alone[0], field), field
    assert decisions(run) == decisions(alone[0])
    for name, tensor in alone[1].state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def test_a_stop_that_another_callback_asks_for_is_kept(tmp_path: Path) -> None:
    class Enough(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 7

    run = tmp_path / "run"
    _, steering = trained(run, callbacks=[Enough()])
    assert steering.outcome is not None
    assert (steering.outcome.state, steering.outcome.step) == ("interrupted", 7)
    assert (run / "checkpoints" / "step-00000007").is_dir()


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, max_steps=10)
    before = (run / "journal.jsonl").read_bytes()
    _, again = trained(run, max_steps=10)
    assert (run / "journal.jsonl").read_bytes() == before
    assert again.outcome is not None
    assert (again.outcome.state, outcome(run)["state"]) == ("finished", "finished")


def test_evidence_leaves_no_trace_and_tells_good_from_bad(tmp_path: Path, alone: tuple[Path, Module]) -> None:
    run = tmp_path / "run"
    module, _ = trained(run, source_value=EVIDENCE)
    source_values = [line["source_value"] for line in lines(run, "evaluation") if line["source_value"]]
    assert source_values
    assert max(source_value["bad"]["value"] for source_value in source_values) < min(
        source_value["good"]["value"] for source_value in source_values
    )
    assert by_step(run, "loss") == by_step(alone[0], "loss")
    for name, tensor in alone[1].state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_trial_steps_are_clipped_as_the_trainer_clips(tmp_path: Path, algorithm: str) -> None:
    sent: list[torch.Tensor] = []
    trainer = new_trainer(
        new_steering(new_mixture(), tmp_path), gradient_clip_val=0.01, gradient_clip_algorithm=algorithm
    )
    trainer.strategy.connect(module := Module())
    trainer.strategy.optimizers = [optimizer := torch.optim.SGD(module.parameters())]
    optimizer.register_step_pre_hook(
        lambda *_: sent.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    )
    devices = TrainerDevices(trainer, module, losses)
    devices.trial_step(default_collate([Points(8, 1)[i] for i in range(8)]), np.full(8, 1 / 8))
    size = sent[0].abs().max() if algorithm == "value" else sent[0].norm()
    assert float(size) == pytest.approx(0.01, rel=1e-3)


class Poisoned(Points):
    """One sample that is not a number."""

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        sample = super().__getitem__(number)
        return {**sample, "vector": sample["vector"] * float("nan")} if number == 7 else sample


def test_a_step_that_is_not_finite_changes_no_weight_and_names_its_samples(tmp_path: Path) -> None:
    weights: dict[int, torch.Tensor] = {}

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
            weights[trainer.global_step] = module.layers[0].weight.detach().clone()

    run, mixture = tmp_path / "run", new_mixture()
    mixture.sources["real"] = type(mixture.sources["real"])(samples=Poisoned(90, 1), kind="real")
    module = Module()
    module.layers[1] = torch.nn.Identity()  # batch statistics would keep the bad sample for good
    trainer = new_trainer(steering := new_steering(mixture, run), callbacks=[Watch()])
    trainer.fit(module, mixture, ckpt_path=steering.ckpt_path)
    (bad, *_) = lines(run, "nonfinite")
    assert "real:0:7" in bad["samples"]
    assert torch.equal(weights[bad["step"]], weights[bad["step"] - 1])
    updated = by_step(run, "updated")
    assert not updated[bad["step"]]
    assert updated[bad["step"] + 1]
    assert all(not torch.equal(weights[a], weights[b]) for a, b in pairwise(weights) if updated[b])


def test_three_such_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match="not finite 3 steps in a row"):
        trained(run, module=Module(lambda step: 1e30 if step > 4 else 0.01))
    assert outcome(run)["state"] == "failed"


class Damaged(Module):
    """Unlearns from step 60 on."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        return -loss if self.global_step >= 60 else loss


GUARD = {"warn_at": 5, "alarm_at": 10, "cut": False, "stop": False}
GUARD |= {"advanced": {"min_evaluations": 5, "history_evaluations": 8, "margin": 0, "freeze_evaluations": 0}}
GUARDED: dict[str, Any] = {"control": {"guard": GUARD}, "every_steps": 2, "max_steps": 90}


def test_after_a_rollback_the_run_ends_and_the_next_launch_resumes_from_there(tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, first = trained(run, module=Damaged(), checkpoints={"every_steps": 10, "keep": 20}, **GUARDED)
    rollback = next(fact for fact in ledger_of(run).facts if isinstance(fact, Rollback))
    assert first.outcome is not None
    assert (first.outcome.state, first.outcome.step) == ("interrupted", rollback.step - 1)
    assert f"went back to step-{rollback.to_step:08d}" in first.outcome.reason
    _, second = trained(run, module=Module(), checkpoints={"every_steps": 10, "keep": 20}, **GUARDED)
    discarded = rollback.step - 1 - rollback.to_step
    assert second.outcome is not None
    assert (second.outcome.state, second.outcome.step) == ("finished", 90 + discarded)
    assert list(by_step(run, "batch_hash")) == list(range(1, 90 + discarded + 1)), "steps only grow"
    state = json.loads(max((run / "checkpoints").glob("step-*/state.json")).read_text())
    assert state["position"] == 90


@pytest.mark.parametrize("saved_every_steps", [10, 2])
def test_what_a_run_went_back_to_is_saved_once(tmp_path: Path, saved_every_steps: int) -> None:
    run = tmp_path / "run"
    checkpoints = {"every_steps": saved_every_steps, "keep": 1}
    _, steering = trained(run, module=Damaged(), checkpoints=checkpoints, **GUARDED)
    assert steering.outcome is not None
    assert "went back to" in steering.outcome.reason
    saved = [line["step"] for line in lines(run, "checkpoint")]
    assert saved.count(steering.outcome.step) == 1


def test_the_users_logger_shows_what_was_decided(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "csv", name="", version="")
    trained(tmp_path / "run", logger=logger)
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    shares = [float(row["mixture/share/bad/target"]) for row in rows if row.get("mixture/share/bad/target")]
    assert shares[0] > shares[-1]


# Mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "max_steps"),
        ({"accumulate_grad_batches": 5}, "Choose a multiple of 5"),
        ({"limit_train_batches": 3}, "limit_train_batches"),
        ({"min_steps": 10}, "min_steps"),
        ({"max_epochs": 5}, "max_epochs"),
    ],
)
def test_a_setting_of_the_trainer_against_the_mixture_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    steering = new_steering(mixture := new_mixture(), tmp_path / "run")
    with pytest.raises(UserError, match=message):
        new_trainer(steering, **changes).fit(Module(), mixture)
    assert not (tmp_path / "run" / "ledger.jsonl").exists()


@pytest.mark.parametrize("kind", [DeepSpeedStrategy, FSDPStrategy])
def test_a_strategy_that_keeps_gradients_where_steering_cannot_see_them_is_refused(
    tmp_path: Path, kind: type[Any]
) -> None:
    trainer = new_trainer(new_steering(mixture := new_mixture(), tmp_path / "run"))
    trainer.datamodule = mixture
    trainer.strategy.__class__ = kind
    with pytest.raises(UserError, match=f"{kind.__name__}.*engine: lightning"):
        check_trainer(trainer, Module(), mixture)


def test_a_training_step_without_a_loss_is_refused(tmp_path: Path) -> None:
    class Picky(Module):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
            return None if batch_idx == 3 else super().training_step(batch, batch_idx)

    with pytest.raises(UserError, match="training_step returned no loss"):
        trained(tmp_path / "run", module=Picky())
    assert outcome(tmp_path / "run")["exit_code"] == 2


def test_a_run_that_resumes_without_its_checkpoint_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(run, max_steps=10)
    steering = new_steering(mixture := new_mixture(), run)
    with pytest.raises(UserError, match=r"ckpt_path=steering\.ckpt_path"):
        new_trainer(steering, max_steps=20).fit(Module(), mixture)
    assert outcome(run)["state"] == "finished"


def test_manual_optimization_is_refused(tmp_path: Path) -> None:
    module, steering = Module(), new_steering(mixture := new_mixture(), tmp_path / "run")
    module.automatic_optimization = False
    with pytest.raises(UserError, match="manual optimization"):
        new_trainer(steering).fit(module, mixture)


def test_a_mixture_without_steering_is_refused(tmp_path: Path) -> None:
    trainer = pl.Trainer(max_steps=3, logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(UserError, match=r"callbacks=\[Steering"):
        trainer.fit(Module(), new_mixture())


@pytest.mark.parametrize("kind", ["odm", "ado", "pike"])
def test_a_policy_whose_evidence_a_module_of_ones_own_does_not_show_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=f"losses or gradients of single sources.*{kind}.*engine: lightning"):
        trained(tmp_path / "run", control={"policy": {"kind": kind}})


def test_a_mean_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no loss for each sample"):
        trained(tmp_path / "run", losses=lambda module, batch: losses(module, batch).mean())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": {"real": 0.5, "good": 0.5}}, "different sources"),
        ({"shares": {"real": 0.5, "good": 0.5, "bad": 0.5}}, "shares must sum to 1"),
        ({"global_batch": 0}, "global_batch"),
    ],
)
def test_a_mixture_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        new_mixture(**changes)


def test_the_hash_of_a_sample_sees_every_part_and_its_place() -> None:
    image = torch.arange(6.0).reshape(2, 3)
    samples = [
        (image, 3),
        (image, 4),
        (image.flatten(), 3),
        (3, image),
        {"a": image, "b": 3},
        [image, 3.0],
        (image, "3"),
    ]
    assert len({sample_hash(sample) for sample in samples}) == len(samples)
    assert sample_hash({"b": 3, "a": image}) == sample_hash({"a": image.clone(), "b": 3})
    with pytest.raises(UserError, match="object"):
        sample_hash(object())
