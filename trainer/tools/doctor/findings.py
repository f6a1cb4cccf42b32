"""What a check of the doctor is given and what it yields."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trainer.recipe import LoadedRecipe

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What a check found; ``remedy`` says what to do about a warn or a fail."""

    name: str
    state: State
    result: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is examined: this machine, the recipe if one is given, and where the run is going to be."""

    loaded: "LoadedRecipe | None" = None
    folder: Path | None = None


Check = Callable[[Subject], Iterable[Finding]]
