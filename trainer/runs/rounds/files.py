"""The files of a run's rounds, all in ``RUN/pool``: what was begun, what became of it, and the segments it made.

A round's state is written before anything happens because of it, so that a run that was killed finds its rounds as they
were, joins each at the step that was recorded, and makes none twice.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from trainer.base.atomic import write_text
from trainer.base.errors import RunFolderError

POOL = "pool"


@dataclass(frozen=True, kw_only=True)
class RoundState:
    """A round that has begun: after which step, and from which step on its segment is drawn, once that is known.

    ``settled``: why it brings nothing to join (no rows passed, not bought, quarantined before it joined). What buying
    goes by: ``real_epochs`` so far, tokens that the source holds, and those that will be drawn of it.
    """

    generation: int
    step: int
    joins_from: int | None = None
    settled: str | None = None
    quarantined: str | None = None  # why it is drawn no more
    real_epochs: float = 0.0
    held_tokens: int = 0
    demand_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**saved)


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the process of a round has made: the record of its requests, as in the pool, and the segment's facts.

    ``fingerprint`` None: nothing is drawn of it, for the ``reason`` if there is one, or because no row passed.
    ``value``: what buying rested on; ``reason``: what was bought and why. ``takedowns``: how many takedowns of the pool
    came before it was packed: it has nothing of them.
    """

    generation: int
    record: Mapping[str, Any]
    fingerprint: str | None = None
    num_samples: int = 0
    value: Mapping[str, float] | None = None
    reason: str | None = None
    takedowns: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """What ``to_json`` gave."""
        return cls(**saved)


@dataclass(frozen=True)
class RoundFiles:
    """Where the rounds of the run in ``run`` are kept."""

    run: Path

    @property
    def pool(self) -> Path:
        """The folder of the run's own pool."""
        return self.run / POOL

    def segment(self, generation: int) -> Path:
        """The folder of the segment that a generation makes."""
        return self.pool / "segments" / _name(generation)

    def log(self, generation: int) -> Path:
        """What the processes of a round say."""
        return self.pool / "logs" / f"{_name(generation)}.log"

    def asked(self, generation: int, step: int) -> Path:
        """The requests that the run's own model answers after ``step``."""
        return self.pool / "unfinished" / f"{_name(generation)}.step-{step:08d}.asked.json"

    def state(self, generation: int) -> RoundState:
        """The state of a round that has begun."""
        return RoundState.from_json(_read(self._state(generation)))

    def _state(self, generation: int) -> Path:
        return self.pool / "rounds" / f"{_name(generation)}.json"

    def _made(self, generation: int) -> Path:
        return self.pool / "rounds" / f"{_name(generation)}.made.json"

    def states(self) -> list[RoundState]:
        """The rounds that have begun, in order."""
        folder = self.pool / "rounds"
        files = [file for file in sorted(folder.glob("generation-*.json")) if not file.name.endswith(".made.json")]
        return [RoundState.from_json(_read(file)) for file in files]

    def write_state(self, state: RoundState) -> None:
        """On the disk when this returns."""
        write_text(self._state(state.generation), json.dumps(state.to_json()))

    def made(self, generation: int) -> Made | None:
        """What a round's process has made; None where it is not over."""
        file = self._made(generation)
        return Made.from_json(_read(file)) if file.is_file() else None

    def write_made(self, made: Made) -> None:
        """On the disk when this returns."""
        write_text(self._made(made.generation), json.dumps(made.to_json()))

    def generations(self) -> dict[str, int]:
        """The generations that have a segment, by its fingerprint."""
        numbers = (int(file.name.split(".")[0].split("-")[1]) for file in (self.pool / "rounds").glob("*.made.json"))
        every = [made for number in sorted(numbers) if (made := self.made(number)) is not None]
        return {made.fingerprint: made.generation for made in every if made.fingerprint is not None}


def _name(generation: int) -> str:
    return f"generation-{generation:04d}"


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        remedy = "Bring it back from a backup, or start a new run in another --run folder"
        raise RunFolderError("the state of a round of synthesis is damaged", file=file, remedy=remedy) from error
