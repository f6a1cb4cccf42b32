"""When the run's own model writes: its requests are planned ahead in a process, its texts between two steps."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainer.base.heartbeat import beat
from trainer.evaluate.ports import Devices
from trainer.runs.rounds.files import RoundFiles, RoundState
from trainer.runs.rounds.own_model import write_own_texts
from trainer.runs.rounds.process import RoundProcess
from trainer.synthesis.config import SynthesisConfig
from trainer.synthesis.generators.config import RunConfig
from trainer.synthesis.pool import Pool

if TYPE_CHECKING:
    from trainer.data.store import PreparedData
    from trainer.engines.engine import TrainingEngine

POLL_S = 0.2


def polled(ranks: Devices, poll: Callable[[], str | None]) -> str:
    """(all) What ``poll`` answers on the main rank in the end; all ranks beat meanwhile."""
    while True:
        beat("waiting for a round")
        answer: str | None = ranks.broadcast(poll() if ranks.is_main else None)
        if answer is not None:
            return answer
        time.sleep(POLL_S)


class OwnTexts:
    """The texts of the run's own model, on each rank."""

    def __init__(
        self, config: SynthesisConfig, engine: "TrainingEngine", data: "PreparedData", files: RoundFiles
    ) -> None:
        self._config, self._engine, self._data, self._files = config, engine, data, files
        self._planning: RoundProcess | None = None

    def plan(self, state: RoundState) -> None:
        """(main) Start to plan the requests of a round, unless they are there."""
        if self._planning is not None:
            self._planning.end()  # of a round that never began
            self._planning = None
        if not self._files.asked(state.generation, state.step).is_file():
            self._planning = RoundProcess(self._files, self._data.folder, "plan", state.generation, state.step)

    def write(self, state: RoundState) -> int:
        """(all) Write what is missing of the texts of a round; how many. OSError on all ranks where that fails."""
        asked = self._files.asked(state.generation, state.step)
        problem = self._planned(state)
        if problem is not None:
            raise OSError(f"its requests could not be planned: {problem}")
        config = self._config.generator
        assert isinstance(config, RunConfig)
        pool = Pool(self._files.pool)
        return write_own_texts(self._engine, self._data, config, pool, state.generation, asked)

    def close(self) -> None:
        """End what still works beside the training."""
        if self._planning is not None:
            self._planning.end()

    def _planned(self, state: RoundState) -> str | None:
        """(all) Wait for the requests of a round; what is wrong where they do not come."""

        def poll() -> str | None:
            if self._planning is None:
                if self._files.asked(state.generation, state.step).is_file():
                    return ""
                try:
                    self.plan(state)
                except OSError as error:
                    return str(error)
                return None
            if self._planning.is_running():
                return None
            problem, self._planning = self._planning.problem(), None
            return problem or ""

        return polled(self._engine, poll) or None
