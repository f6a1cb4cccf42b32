"""What the stages of a round know of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.decontamination import HeldOutIndex
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators.protocol import Identity
from trainer.synthesis.pool import Pool
from trainer.synthesis.real_text import RealText
from trainer.synthesis.requests import PromptRow


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of which round: shard ``number`` (from 0) of ``of``."""

    generation: int
    number: int = 0
    of: int = 1


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """What the stages may look at, besides the rows."""

    config: SynthesisConfig
    base: Path  # the recipe's folder
    seed: int
    shard: Shard
    pool: Pool
    held_out: HeldOutIndex
    identity: Identity
    source_columns: Mapping[str, Mapping[str, Any]]  # row id -> the real row that its prompt was made of
    prompt_rows: Sequence[PromptRow]  # real training rows that may become prompts
    set_aside: Sequence[PromptRow]  # further ones, which graders are graded on
    held_out_texts: Sequence[str]
    real: RealText  # all real training text of the sources that are asked about, where it is needed
