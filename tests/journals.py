"""Run folders as a run leaves them: a believable story with a move and a cut, written through the journal itself."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.environments import ENVIRONMENTS
from experiments.world import steered
from trainer.base.records import Action, Decision, Kind, SourceValue
from trainer.control import ControlConfig
from trainer.data.account import Copies, Copy, FileAccount, FilteredRows, RowAccount, SkippedFiles
from trainer.tracking.figures import HeldOutFigures, SliceDrawn, SliceLoss, SourceFacts, StepMixture, WorstSlice
from trainer.tracking.journal import AppendOnlyFile, Journal
from trainer.tracking.schema import (
    CheckpointLine,
    DecisionLine,
    EvaluationLine,
    FinishLine,
    SampleLine,
    StartLine,
    StepLine,
    TestLine,
)

RECIPE = """\
# trainer fit recipes/story.yaml
name: {name}
seed: 17
engine: accelerate
model: {{architecture: llama, config: {{hidden_size: 128, num_hidden_layers: 4}}}}
mixture:
  global_batch: 32
"""
KINDS: dict[str, Kind] = {"wikipedia": "real", "written": "synthetic", "invented": "synthetic", "spam": "synthetic"}
SOURCE_VALUES = {"wikipedia": 0.4, "written": 0.9, "invented": 0.3, "spam": -0.6}
SLICES = {"history": 0.0, "science": 0.12, "music": -0.08, "people": 0.31}
GLOBAL_BATCH, SEQUENCE_LENGTH, EVERY_STEPS = 32, 128, 25


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happens. ``crash_at`` ends the journal in the middle of the line after that step; ``rename`` renames."""

    name: str = "story"
    steps: int = 400
    seed: int = 0
    steered: bool = True
    crash_at: int | None = None
    rename: Mapping[str, str] | None = None
    sample_text: str = "The river rises in the north of the county and flows through three villages."


class Teller:
    """Writes one story into a run folder."""

    def __init__(self, folder: Path, story: Story) -> None:
        self.story, self.folder = story, folder
        self.names = {name: (story.rename or {}).get(name, name) for name in KINDS}
        self.rng = np.random.default_rng(story.seed)
        self.journal = Journal(folder / "journal.jsonl")
        self.ledger = AppendOnlyFile(folder / "ledger.jsonl")
        self.shares = {self.names[name]: 250_000 for name in KINDS}
        self.epochs = dict.fromkeys(self.names.values(), 0.0)
        (folder / "recipe.yaml").write_text(RECIPE.format(name=story.name), encoding="utf-8")

    def accounts(self) -> dict[str, RowAccount]:
        """Where the rows of two of the sources went."""
        copies = Copies(exact=2, near=5, examples=(Copy("letter 7", "letter 3", "near", 0.91, "Dear Sir"),))
        filtered = FilteredRows(filter="length", reason="fewer than 5 words", num_rows=41)
        nothing = {"held_out": 0, "not_selected": 0, "not_sampled": 0, "beyond_limit": 0}
        hidden = SkippedFiles(reason="hidden", num_files=2, examples=(".cache/a.jsonl",))
        return {
            self.names["written"]: RowAccount(
                files=FileAccount(read=3, num_bytes=4_000_000, skipped=(hidden,)),
                read=907, used=900, quarantined=0, contaminated=7, copies=copies, **nothing,
            ),
            self.names["spam"]: RowAccount(
                files=FileAccount(read=1, num_bytes=1_200_000),
                read=1334, used=1289, quarantined=4, malformed={"missing text": 3, "bad JSON": 1}, contaminated=0,
                filters=(filtered,), **nothing,
            ),
        }  # fmt: skip

    def tell(self) -> None:
        """The whole story, or the part before the crash."""
        self.start()
        for step in range(1, self.story.steps + 1):
            self.step(step)
            if step % EVERY_STEPS == 0:
                self.evaluation(step)
                self.decision(step)
            if step % 100 == 0:
                folder, size = f"step-{step:08d}", 18_000_000
                saved = CheckpointLine(step=step, folder=folder, seconds=0.4, stalled_seconds=0.4, bytes=size)
                self.journal.write(saved)
            if step == self.story.crash_at:
                self.journal.close()
                with (self.folder / "journal.jsonl").open("ab") as file:
                    file.write(b'{"kind":"step","step":')
                return
        self.end()

    def start(self) -> None:
        sources = {
            name: SourceFacts(
                num_samples=900 + 700 * i, kind=kind, license="CC-BY-SA-4.0" if i < 3 else None,
                num_tokens=(900 + 700 * i) * SEQUENCE_LENGTH, num_documents=400 + 310 * i,
            )
            for i, (name, kind) in enumerate((self.names[name], kind) for name, kind in KINDS.items())
        }  # fmt: skip
        environment = {"versions": {"python": "3.11.2", "torch": "2.13.0"}, "device": "cpu", "hostname": "node-1"}
        self.journal.write(StartLine(
            step=0, recipe_name=self.story.name, world_size=2, environment=environment | {"git_commit": "0f3c2a1"},
            resumed_from=None, sources=sources, store="store/5f2e", parameters=1_180_000, validation_documents=256,
            rows={name: account.to_json() for name, account in self.accounts().items()},
        ))  # fmt: skip
        for name, facts in sources.items():
            self.ledger.append({"fact": "segment", "step": 0, "source": name, "kind": facts.kind, "segment": 0}
                               | {"num_samples": facts.num_samples, "fingerprint": "ab12"})  # fmt: skip
        self.ledger.append({"fact": "batch", "step": 0, "global_batch": GLOBAL_BATCH})
        self.ledger.append({"fact": "shares", "step": 0, "shares": self.shares, "reason": "recipe"})

    def loss(self, step: int) -> float:
        bad = sum(self.shares[self.names[name]] / 1e6 * max(0.0, -SOURCE_VALUES[name]) for name in KINDS)
        return 4.1 + 4.2 * math.exp(-step / 90) + 0.25 * bad

    def step(self, step: int) -> None:
        counts = {name: round(GLOBAL_BATCH * share / 1e6) for name, share in self.shares.items()}
        for i, (name, count) in enumerate(counts.items()):
            self.epochs[name] += count / (900 + 700 * i)
        loss, norm = self.loss(step) - 0.2 + self.rng.normal() * 0.06, float(self.rng.uniform(0.5, 1.5))
        self.journal.write(step_line(
            step, loss=loss, learning_rate=1e-3 * min(1, step / 40), grad_norm=norm, counts=counts, shares=self.shares,
            tokens=GLOBAL_BATCH * SEQUENCE_LENGTH, epochs=self.epochs, batch_hash=str(self.rng.integers(2**62)),
        ))  # fmt: skip

    def evaluation(self, step: int) -> None:
        loss = self.loss(step) + self.rng.normal() * 0.01
        source_value = {
            self.names[name]: SourceValue(value=value + self.rng.normal() * 0.1, standard_error=0.12, num_samples=64)
            for name, value in SOURCE_VALUES.items()
        }
        figures = HeldOutFigures(
            nats_per_token=loss, standard_error=0.021, bits_per_byte=loss * 0.45, documents=256, tokens=16_000,
            tail_nats_per_token=loss + 0.9, source_nats_per_token=dict.fromkeys(self.names.values(), loss - 0.3),
            slices={name: SliceLoss(nats_per_token=loss + more, tokens=4000) for name, more in SLICES.items()},
        )  # fmt: skip
        self.journal.write(EvaluationLine(
            step=step, figures=figures, source_value=source_value, seconds=1.2, drawn_unnamed=0.25,
            drawn_slices={"people": SliceDrawn(real=0.4, drawn=0.137)},
        ))  # fmt: skip

    def decision(self, step: int) -> None:
        spam, written = self.names["spam"], self.names["written"]
        guard: dict[str, Any] = {
            "nats_per_token": 4.31, "expected_nats_per_token": 4.33, "difference": -0.02, "jitter_sd": 0.012, "z": -1.7,
            "evidence": 0.2, "warn_at": 10, "alarm_at": 2000,
        }  # fmt: skip
        before = dict(self.shares)
        action: Action = "keep"
        reason = "no source's value differs from the others beyond 2 standard errors"
        if self.story.steered and step == 100:
            self.shares = {**self.shares, spam: 125_000, written: 375_000}
            action, reason = "move", f"{spam} is worth -0.61 ± 0.12, 5.1 standard errors below 0: halved"
        elif self.story.steered and step == 200:
            self.shares = {**self.shares, spam: 0, written: 500_000}
            action, reason = "cut", f"guard: {spam} does harm in three evaluations"
            guard |= {"z": 6.2, "evidence": 4100.0, "alarm_count": 1}
        standing = {
            "source_value": -0.61,
            "source_value_standard_error": 0.12,
            "advantage": -0.95,
            "advantage_standard_error": 0.14,
        }
        evidence = {
            "policy": {"sources": {spam: standing | {"num_evaluations": 4}}, "margin": 0.25, "z": 3.0},
            "guard": guard,
            "shares_before": before,
            "progress": step / self.story.steps,
        }
        decided = Decision(
            from_step=step + 1, action=action, shares=self.shares, reason=reason, policy="feedback", evidence=evidence
        )
        self.journal.write(DecisionLine.of(decided, step=step))
        if action != "keep":
            self.ledger.append({"fact": "shares", "step": step + 1, "shares": self.shares, "reason": reason})

    def end(self) -> None:
        steps = self.story.steps
        bits = self.loss(steps) * 0.45
        slices = {
            name: SliceLoss(bits_per_byte=bits + more * 0.4, nats_per_token=4.2 + more, documents=60)
            for name, more in SLICES.items()
        }
        figures = HeldOutFigures(
            bits_per_byte=bits, nats_per_token=bits / 0.45, standard_error=0.018, documents=240, tokens=16_000,
            slices=slices, worst_slice=WorstSlice(name="people", bits_per_byte=bits + 0.124),
        )  # fmt: skip
        self.journal.write(TestLine(step=steps, figures=figures))
        self.journal.write(SampleLine(step=steps, prompt="The river", text=self.story.sample_text))
        tokens = steps * GLOBAL_BATCH * SEQUENCE_LENGTH
        finished = FinishLine(step=steps, state="finished", reason="all steps done", seconds=131.5, tokens=tokens)
        self.journal.write(finished)
        outcome = {"state": "finished", "step": steps, "reason": "all steps done", "exit_code": 0}
        (self.folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
        self.journal.close()
        self.ledger.close()


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., Path]:
    """tell(name=..., crash_at=...) writes a run folder and returns it."""

    def write(**given: Any) -> Path:
        story = Story(**given)
        folder = tmp_path / "runs" / story.name
        folder.mkdir(parents=True)
        Teller(folder, story).tell()
        return folder

    return write


@pytest.fixture(scope="session")
def decisions() -> list[Decision]:
    """Of ``priced`` and the guard in a world of the laboratory whose real data are scarce."""
    world = next(environment for environment in ENVIRONMENTS if environment.name.startswith("E9")).world(seed=1)
    policy = {
        "kind": "priced",
        "estimators": ["alignment", "dither"],
        "advanced": {"curvature": 1.0},
        "real_epochs": 1.0,
    }
    return steered(world, ControlConfig.model_validate({"policy": policy | {"real_floor": 0.001}}))


def written(folder: Path, decided: Sequence[Decision], kinds: Mapping[str, Kind]) -> Path:
    """A run folder in which there are only decisions."""
    journal = Journal(folder / "journal.jsonl")
    sources = {name: SourceFacts(kind=kind, num_samples=500, num_tokens=1000) for name, kind in kinds.items()}
    journal.write(start_line(sources))
    for decision in decided:
        journal.write(DecisionLine.of(decision, step=decision.from_step - 1))
    journal.close()
    return folder


def start_line(sources: Mapping[str, SourceFacts]) -> StartLine:
    """A first start of which only the sources matter."""
    return StartLine(
        step=0, recipe_name="decided", world_size=1, parameters=1000, resumed_from=None, sources=sources,
        validation_documents=10, environment={},
    )  # fmt: skip


def step_line(
    step: int,
    *,
    shares: Mapping[str, int],
    counts: Mapping[str, int] | None = None,
    epochs: Mapping[str, float] | None = None,
    **figures: Any,
) -> StepLine:
    """A step of which only what is given matters."""
    given: dict[str, Any] = {
        "loss": 4.0, "source_loss": {}, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens": 64, "batch_hash": "0",
        "updated": True, "seconds": 0.31, **figures,
    }  # fmt: skip
    none = dict.fromkeys(shares, 0)
    mixture = StepMixture(counts=counts or none, shares=dict(shares), epochs=dict(epochs or none))
    return StepLine(step=step, mixture=mixture, **given)


def evaluation_line(step: int, nats_per_token: float, **given: Any) -> EvaluationLine:
    """An evaluation of which only what is given matters."""
    figures = {"standard_error": None, "bits_per_byte": nats_per_token * 0.45, "documents": 10, "tokens": 1000}
    held_out = HeldOutFigures(nats_per_token=nats_per_token, **(figures | given))
    return EvaluationLine(step=step, figures=held_out, seconds=1.0)
