"""Which model is trained and how: AdamW, and a learning rate that is a function of the schedule position.

The position, not the step, is what the rate depends on: a rollback goes back in the schedule while steps only grow.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainer.base.config import Config

LARGEST_SIZE = 10**7
SIZES = frozenset(  # of a model in the configurations of transformers
    ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
     "vocab_size", "max_position_embeddings", "n_embd", "n_layer", "n_head", "n_positions", "d_model", "d_ff")
)  # fmt: skip
HORIZON_PARTS = 400  # finer than any decision is made


class ModelConfig(Config):
    """Either ``architecture`` with the keys of its transformers ``config``, or ``pretrained``."""

    architecture: str | None = Field(
        default=None, description="transformers model type to train from scratch: llama, gpt2, qwen3, ..."
    )
    pretrained: str | None = Field(
        default=None, description="folder or hub id of a causal language model in safetensors"
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="keys of the transformers configuration: hidden_size, num_hidden_layers, ..."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, a third more compute"
    )
    attention: str | None = Field(
        default=None,
        description="attention kernel of transformers: eager, sdpa, flash_attention_2; null lets it choose",
    )
    grow_embedding: bool = Field(
        default=False,
        description="give the ids of the tokenizer that a pretrained model has no row for one, the mean of its rows",
    )
    saved_precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        default=None,
        description="numbers of the written model: fp32, bf16, fp16; null: as the pretrained weights came, fp32 from "
        "scratch. Checkpoints keep fp32",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError(
                "give either architecture (from scratch) or pretrained (a folder or hub id), not both and not neither"
            )
        if self.pretrained is not None and self.config:
            raise ValueError(f"a pretrained model brings its own configuration: remove config: {sorted(self.config)}")
        for key in SIZES & self.config.keys():
            if (value := self.config[key]) is not None and not _is_size(value):
                raise ValueError(f"config.{key} must be a whole number from 1 to {LARGEST_SIZE:,}, got {value!r}")
        if self.grow_embedding and self.pretrained is None:
            raise ValueError("grow_embedding is for a pretrained model; from scratch every id has a row: remove it")
        return self


def _is_size(value: Any) -> bool:
    if isinstance(value, list):  # one for each layer
        return all(_is_size(each) for each in value)
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIZE


class CosineSchedule(Config):
    """Linear warm-up, then half a cosine down to ``min_lr_ratio`` of the learning rate."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0, le=10**9, description="steps of linear warm-up")
    min_lr_ratio: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end, as a part of the highest"
    )

    def factor(self, position: int, steps: int) -> float:
        """Part of the highest learning rate at schedule position 0 .. steps - 1."""
        part_done = max(0, position - self.warmup_steps) / max(1, steps - self.warmup_steps)
        falling = self.min_lr_ratio + (1 - self.min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * part_done))
        return min(1.0, (position + 1) / (self.warmup_steps + 1)) * falling


class WarmupStableDecaySchedule(Config):
    """Linear warm-up, a plateau, and a linear fall over the last ``decay_fraction`` of the steps."""

    kind: Literal["wsd"] = "wsd"
    warmup_steps: int = Field(default=0, ge=0, le=10**9, description="steps of linear warm-up")
    decay_fraction: float = Field(default=0.2, gt=0, le=1, description="part of the steps over which the rate falls")
    min_lr_ratio: float = Field(
        default=0.0, ge=0, le=1, description="learning rate at the end, as a part of the highest"
    )

    def factor(self, position: int, steps: int) -> float:
        """Part of the highest learning rate at schedule position 0 .. steps - 1."""
        decay_steps = max(1.0, self.decay_fraction * steps)
        part_left = min(1.0, (steps - position) / decay_steps)
        return min(1.0, (position + 1) / (self.warmup_steps + 1)) * (
            self.min_lr_ratio + (1 - self.min_lr_ratio) * part_left
        )


class ConstantSchedule(Config):
    """Linear warm-up, then a plateau."""

    kind: Literal["constant"] = "constant"
    warmup_steps: int = Field(default=0, ge=0, le=10**9, description="steps of linear warm-up")

    def factor(self, position: int, steps: int) -> float:
        """Part of the highest learning rate at schedule position 0 .. steps - 1."""
        return min(1.0, (position + 1) / (self.warmup_steps + 1))


Beta = Annotated[float, Field(ge=0, lt=1)]
Schedule = Annotated[CosineSchedule | WarmupStableDecaySchedule | ConstantSchedule, Field(discriminator="kind")]


class TrainingConfig(Config):
    """How the model is trained."""

    steps: int = Field(gt=0, le=10**9, description="optimizer steps")
    micro_batch: int = Field(
        gt=0, le=10**6, description="most samples in one forward on one process; accumulation follows from it"
    )
    learning_rate: float = Field(gt=0, description="highest learning rate")
    schedule: Schedule = Field(
        default_factory=CosineSchedule, description="cosine, wsd or constant, by schedule position"
    )
    weight_decay: float = Field(
        default=0.1, ge=0, le=100, description="of matrices; vectors (norms, biases) are not decayed"
    )
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="of AdamW, each from 0 to below 1")
    epsilon: float = Field(default=1e-8, gt=0, le=1, description="of AdamW")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients are scaled down to this norm over the global batch"
    )
    precision: Literal["fp32", "bf16", "auto"] = Field(
        default="bf16",
        description="of the forward and backward; weights are kept and gradients summed in fp32. auto: fp32 on a CPU "
        "that only emulates bf16",
    )
    rate_jump: Literal["accept", "hold", "rewarm"] = Field(
        default="accept",
        description="where a resume under more steps would make the learning rate jump: accept it (told either way), "
        "hold it at the last step's rate or below, or rewarm from there to the schedule",
    )
    teacher_weight: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="of the divergence from data.teacher in the loss of the samples that it has read; the rest is "
        "cross entropy",
    )
    compile: bool = Field(default=False, description="torch.compile the model")
    timeout_s: float = Field(
        default=600.0,
        ge=5,
        le=10**7,
        description="a run that makes no progress for so many seconds is ended, and the rank named that stalls it; "
        "three times as long until the second step and while a checkpoint is saved or read",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"schedule.warmup_steps ({self.schedule.warmup_steps}) must be fewer than steps ({self.steps})"
            )
        return self

    def rate(self, position: int) -> float:
        """Learning rate at schedule position 0 .. steps - 1."""
        return self.learning_rate * self.schedule.factor(position, self.steps)

    def rates(self, rate: Callable[[int], float] | None = None) -> tuple[float, ...]:
        """Learning rates over the run, in the middle of each of ``HORIZON_PARTS`` equal parts, or of each step; by
        ``rate`` at a position where it is not the schedule's.
        """
        parts = min(HORIZON_PARTS, self.steps)
        return tuple((rate or self.rate)(int((part + 0.5) * self.steps / parts)) for part in range(parts))
