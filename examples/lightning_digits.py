# .venv/bin/python examples/lightning_digits.py
"""An image classifier, a ``LightningModule`` like any other, on few real digits and two generators; half a minute.

One generator blends real scans of the same digit, the other does the same and writes any label on the result. The
value of their samples is measured on held-out scans during training, and the bad one loses its share. Nothing here is
text.

    python examples/lightning_digits.py [--run DIR] [--steps N] [--devices N]
"""

import argparse
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from trainer.lightning import MixtureData, Source, Steering

USUAL = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}  # WandbLogger(...) goes here


class Classifier(pl.LightningModule):
    """Ten digits from 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [samples, 10]."""
        return self.layers(images)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Mean cross entropy."""
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def losses(module: Classifier, batch: list[torch.Tensor]) -> torch.Tensor:
    """Cross entropy of each sample, nats [samples]."""
    images, labels = batch
    return cross_entropy(module(images), labels, reduction="none")


def scans() -> dict[str, TensorDataset]:
    """The real digits: 100 to train on, the others held out: for validation, and for the final test."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    order = torch.tensor(np.random.default_rng(0).permutation(len(labels)))
    parts = {"train": order[:100], "validation": order[100:900], "test": order[900:]}
    return {name: TensorDataset(images[part], labels[part]) for name, part in parts.items()}


def generated(real: TensorDataset, count: int, *, labels_are_kept: bool, seed: int) -> TensorDataset:
    """``count`` digits, each a noisy blend of two scans of the same digit, with its label or with a random one."""
    rng = np.random.default_rng(seed)
    images, labels = (tensor.numpy() for tensor in real.tensors)
    first = rng.integers(len(labels), size=count)
    second = np.array([rng.choice(np.flatnonzero(labels == label)) for label in labels[first]])
    between = rng.uniform(size=(count, 1, 1))
    blended = images[first] * between + images[second] * (1 - between) + rng.normal(0, 0.05, size=(count, 8, 8))
    shown = labels[first] if labels_are_kept else rng.integers(10, size=count)
    return TensorDataset(torch.tensor(blended, dtype=torch.float32), torch.tensor(shown))


def main() -> None:
    """Train, and print how the run ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/digits"), help="run folder; run again, it resumes")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--devices", type=int, default=1)
    asked = parser.parse_args()
    pl.seed_everything(17, verbose=False)
    real = scans()

    # The integration.
    sources = {
        "scans": Source(samples=real["train"], kind="real"),
        "blended": Source(samples=generated(real["train"], 2000, labels_are_kept=True, seed=1), kind="synthetic"),
        "mislabeled": Source(samples=generated(real["train"], 2000, labels_are_kept=False, seed=2), kind="synthetic"),
    }
    mixture = MixtureData(sources, shares={"scans": 0.4, "blended": 0.3, "mislabeled": 0.3}, global_batch=64)
    steering = Steering(
        mixture,
        held_out=real["validation"],
        losses=losses,
        test=real["test"],
        folder=asked.run,
        every_steps=10,
        control={"policy": {"kind": "feedback"}},
        source_value={"samples_per_step": 16, "held_out_samples": 400},
    )
    trainer = pl.Trainer(max_steps=asked.steps, callbacks=[steering], devices=asked.devices, **USUAL)
    trainer.fit(Classifier(), mixture, ckpt_path=steering.ckpt_path)

    if trainer.is_global_zero:
        print(steering.outcome)
        print(f"open {asked.run / 'report.html'}, or run: trainer explain {asked.run} --step {asked.steps // 2}")


if __name__ == "__main__":
    main()
