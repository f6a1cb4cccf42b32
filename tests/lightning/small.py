"""A module of ten thousand weights on samples that are no text, and runs of it that take a second."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from trainer.lightning import MixtureData, Source, Steering

SIZE, CLASSES, GLOBAL_BATCH = 12, 3, 24
SHARES = {"real": 0.5, "good": 0.25, "bad": 0.25}
MOVING = {
    "policy": {
        "kind": "schedule",
        "points": [{"at": 0.0, "shares": SHARES}, {"at": 1.0, "shares": {"real": 0.9, "good": 0.1, "bad": 0.0}}],
    }
}


class Points:
    """Vectors around one center per class, as dicts: a sample need not be a tuple of tensors."""

    def __init__(self, count: int, seed: int, *, any_label: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        centers = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(0))
        self.labels = torch.randint(CLASSES, (count,), generator=generator)
        self.vectors = centers[self.labels] + torch.randn(count, SIZE, generator=generator)
        if any_label:
            self.labels = torch.randint(CLASSES, (count,), generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int, /) -> dict[str, Any]:
        return {"vector": self.vectors[number], "label": int(self.labels[number])}


class Module(pl.LightningModule):
    """With dropout, batch statistics and a schedule: all that a resume has to bring back."""

    def __init__(self, rate: Callable[[int], float] = lambda step: 0.01) -> None:
        super().__init__()
        self._rate = rate
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(
                nn.Linear(SIZE, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, CLASSES)
            )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.layers(vectors)

    def training_step(self, batch: Mapping[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return losses(self, batch).mean()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def losses(module: pl.LightningModule, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(module(batch["vector"]), batch["label"], reduction="none")


def new_mixture(**changes: Any) -> MixtureData:
    sources = {
        "real": Source(samples=Points(90, 1), kind="real"),
        "good": Source(samples=Points(200, 2), kind="synthetic"),
        "bad": Source(samples=Points(200, 3, any_label=True), kind="synthetic"),
    }
    return MixtureData(sources, **{"shares": SHARES, "global_batch": GLOBAL_BATCH, "seed": 5, **changes})


def new_steering(mixture: MixtureData, folder: Path, **changes: Any) -> Steering:
    given: dict[str, Any] = {
        "held_out": Points(160, 9),
        "losses": losses,
        "folder": folder,
        "every_steps": 5,
        "control": MOVING,
        "checkpoints": {"every_steps": 10, "keep": 2},
    }
    return Steering(mixture, **{**given, **changes})


def new_trainer(steering: Steering, *, callbacks: Sequence[pl.Callback] = (), **changes: Any) -> pl.Trainer:
    given: dict[str, Any] = {
        "max_steps": 30,
        "logger": False,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return pl.Trainer(**{**given, **changes}, callbacks=[*callbacks, steering])


def trained(
    folder: Path, *, module: Module | None = None, callbacks: Sequence[pl.Callback] = (), **changes: Any
) -> tuple[Module, Steering]:
    """A run in ``folder``, or its next part; changes whose names belong to the Trainer, the mixture or the steering."""
    of_trainer = {
        name: changes.pop(name) for name in ("max_steps", "accumulate_grad_batches", "logger") if name in changes
    }
    mixture = new_mixture(**{name: changes.pop(name) for name in ("shares", "global_batch") if name in changes})
    module, steering = module or Module(), new_steering(mixture, folder, **changes)
    trainer = new_trainer(steering, callbacks=callbacks, **of_trainer)
    trainer.fit(module, mixture, ckpt_path=steering.ckpt_path)
    return module, steering
