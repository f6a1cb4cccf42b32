"""The engine `lightning`: a recipe's run inside ``pl.Trainer.fit``.

One batch of Lightning's is one step on a global batch, given by ``loop.Steps`` and made by our engine (Lightning calls
that manual optimization); what comes after a step is ``loop.after_step``, as everywhere. The loader has a length,
because without one Lightning fetches a batch ahead, and a decision would come one batch late. Its end is the
iterator's: a rollback makes a run longer than any length that is given before it starts.
"""

import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from typing_extensions import override

from trainer.engines.deepspeed.sharding import exact_weights
from trainer.engines.engine import TrainingEngine
from trainer.evaluate.ports import Engine
from trainer.lightning.engine import engine_on
from trainer.lightning.strategies import ZERO_STAGES, shard, strategy_name, trainer_arguments
from trainer.model.config import TrainingConfig
from trainer.model.optimizer import build_optimizer
from trainer.training.loop import Steps, launch
from trainer.training.run import Outcome, Run, RunState

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from trainer.data.loader import StepBatch

Begin = Callable[[TrainingEngine], tuple[Run, RunState]]
Finish = Callable[[Run, Engine, RunState, Outcome], Outcome]
SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)


def train_under_lightning(
    model: "PreTrainedModel", training: TrainingConfig, *, seed: int, begin: Begin, finish: Finish
) -> Outcome:
    """Train ``model`` in the processes and by the strategy that the launcher describes.

    ``begin`` is called once the strategy is set up, ``finish`` after the last step, both by every rank.
    """
    _quieten()
    trainer = pl.Trainer(
        **trainer_arguments(training),
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        detect_anomaly=False,
    )
    module = RecipeModule(model, training, seed=seed, begin=begin, finish=finish)
    trainer.fit(module)
    assert module.outcome is not None
    return module.outcome


def _quieten() -> None:
    """Leave out which devices there are, tips, and warnings about Lightning's own lines."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module=name)


class StepNumbers:
    """What Lightning takes for a loader: a length without meaning, and the numbers of the steps until the run ends.

    The ``batch`` itself does not go through Lightning, which would copy whatever it knows: the step moves one
    micro-batch after the other.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self.batch: StepBatch | None = None  # of the current step

    def __len__(self) -> int:
        return sys.maxsize >> 1

    def __iter__(self) -> Iterator[int]:
        for batch in self._steps.batches():
            self.batch = batch
            yield batch.step


class RecipeModule(pl.LightningModule):
    """A language model whose training step is one step of the run."""

    def __init__(
        self, model: "PreTrainedModel", training: TrainingConfig, *, seed: int, begin: Begin, finish: Finish
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        if training.compile:
            model.compile()
        self.trained_model, self.kind = model, type(model)  # sharding changes the class
        self.exact_weights: dict[str, torch.Tensor] = {}
        self.outcome: Outcome | None = None
        self._training_config, self._seed = training, seed
        self._begin, self._finish = begin, finish
        self._handlers: dict[int, Any] = {}

    @override
    def forward(self, input_ids: "torch.Tensor") -> Any:
        """The model's output under the run's autocast."""
        with self.trainer.strategy.precision_plugin.forward_context():
            return self.trained_model(input_ids=input_ids)

    @override
    def configure_model(self) -> None:
        """Spread the weights over the ranks, where the strategy asks for it: layer by layer, then what is left. For
        ZeRO keep them as they are: this is the last place before DeepSpeed gets hold of them.
        """
        if strategy_name() == "model_parallel":
            shard(self.trained_model, self.device_mesh["data_parallel"])
        if strategy_name() in ZERO_STAGES:
            self.exact_weights = exact_weights(self.trained_model, self._training_config)

    @override
    def configure_optimizers(self) -> Any:
        return build_optimizer(self.trained_model, self._training_config)

    @override
    def on_fit_start(self) -> None:
        """Remember the run's own signal handlers: Lightning will put its own over them, which tell all ranks from
        inside the handler and hang where a rank is in another collective.
        """
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}

    @override
    def train_dataloader(self) -> StepNumbers:
        """Begin the run: the first place where the model is wrapped, the optimizer built and the ranks connected."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._engine = engine_on(self, self._training_config, seed=self._seed)
        run, state = self._begin(self._engine)
        self._steps = Steps(run, state)
        self._numbers = StepNumbers(self._steps)
        return self._numbers

    @override
    def training_step(self, step: int, batch_idx: int) -> None:
        steps, batch = self._steps, self._numbers.batch
        assert batch is not None
        assert batch.step == step
        self._launched = launch(steps.run, steps.state, batch, self._engine, self._training_config)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Whatever is due after the step."""
        self._steps.complete(self._launched)
        self.trainer.should_stop = self._steps.outcome is not None

    @override
    def on_train_end(self) -> None:
        """Finish the run while the strategy still stands."""
        outcome = self._steps.outcome
        assert outcome is not None
        self.outcome = self._finish(self._steps.run, self._engine, self._steps.state, outcome)
