"""The model of the run itself: its texts are written between two steps, by the processes that train it.

What grades and filters them is a process of its own, which finds all answers there: it never asks this generator.
"""

from collections.abc import Iterator, Sequence, Set

from trainer.base.errors import UserError
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.generators.protocol import Completion, Generator, Identity, Request


class RunModel:
    """Knows which model has written, and writes nothing; ``name`` and ``weights`` are set by the run."""

    def __init__(self, config: RunConfig, *, name: str = "", weights: str = "") -> None:
        self.config, self._name, self._weights = config, name, weights

    def identity(self) -> Identity:
        """The run's name, and the step after which its model wrote."""
        if not self._name:
            remedy = "Give synthesis.every and `trainer fit`, or kind: transformers and --from RUN"
            raise UserError("kind: run writes only while a run trains", remedy=remedy)
        return Identity(name=self._name, weights=self._weights, license=self.config.license)

    def generate(self, requests: Sequence[Request], done: Set[str], /) -> Iterator[Completion]:
        """Nothing: what is missing is written by the run."""
        missing = sum(request.id not in done for request in requests)
        raise UserError(f"{missing} texts were not written by the run", remedy="Resume the run: it writes them")


def run_model(config: RunConfig) -> Generator:
    """The generator of kind ``run``."""
    return RunModel(config)
