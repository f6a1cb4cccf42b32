"""The engine: a launcher's processes with a language model on them, and the step that is the same for every sharding.

Gradients are those of the mean over the global batch, clipped over all ranks, and left out where they are not finite;
nothing between the first forward and the figures of a step waits for the device. Measurements are real steps that are
undone, so no sharding needs a way of its own to measure.
"""

# B rows (of a micro-batch, or of a step on this rank), T tokens, V vocabulary, K sources

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer.base.heartbeat import beat
from trainer.data.loader import MicroBatch
from trainer.engines.adam_scales import scales
from trainer.engines.checkpoint_io import GroupWriters, open_writers, write
from trainer.engines.launch import collective_timeout
from trainer.engines.protocols import Launcher, Sharding
from trainer.engines.ranks import LaunchedRanks
from trainer.engines.replicated import bare
from trainer.engines.seeds import seed_dropout, step_seed
from trainer.engines.step_stats import ROUTER, TEACHER, PendingStep, SummedFigures, by_source
from trainer.engines.writing import TextBatch, context_of, written
from trainer.model.config import TrainingConfig
from trainer.model.distillation import mixed, teacher_divergences
from trainer.model.loss import normalized, token_losses
from trainer.model.router import router_loss_of
from trainer.model.saving import SavedForm, save_model

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.data.loader import StepBatch


@dataclass(frozen=True, kw_only=True)
class _RowSums:
    """Sums over the tokens of each row of a micro-batch, float64 [B]: the cross entropy in nats, and by name what else
    is trained on.
    """

    nats: "Tensor"
    besides: "dict[str, Tensor]"


class TrainingEngine(LaunchedRanks):
    """A launcher and a sharding; see ``evaluate.ports.Engine`` for the methods."""

    def __init__(
        self, launcher: Launcher, sharding: Sharding, training: TrainingConfig, *, seed: int, form: SavedForm
    ) -> None:
        super().__init__(launcher)
        self.sharding, self._form = sharding, form
        self._training, self._seed = training, seed
        self._router = router_loss_of(bare(sharding.model))
        sharding.model.train()
        self.writers: GroupWriters = open_writers(collective_timeout(training))

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once."""
        return self.sharding.num_parameters

    # A step

    def train_step(self, batch: "StepBatch", *, learning_rate: float, stop: bool, ledger_digest: int) -> PendingStep:
        """One optimizer step on this rank's part of the global batch, launched; nothing here waits for the device."""
        for group in self.sharding.param_groups:
            group["lr"] = learning_rate
        seed_dropout(step_seed(self._seed, batch.step, self.rank), self.device)
        rows = self._accumulate(batch.micro_batches, batch.target_tokens)
        nats_B = torch.cat([part.nats for part in rows])
        sources_B = batch.row_sources.to(self.device, non_blocking=True)
        summed = SummedFigures(
            by_source(nats_B, sources_B, num_sources=len(batch.source_targets)),
            batch_hash=batch.batch_hash,
            stop=stop,
            ledger_digest=ledger_digest,
            world_size=self.world_size,
            besides={name: torch.cat([part.besides[name] for part in rows]).sum() for name in rows[0].besides},
        )
        norm, skipped = self.sharding.step(summed.nats)
        return PendingStep(batch, summed, norm, skipped)

    def _accumulate(self, micro_batches: Sequence[MicroBatch], target_tokens: int) -> list[_RowSums]:
        """Gradients of all micro-batches, and the sums of the rows of each."""
        rows = []
        for number, micro in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with self.sharding.accumulating(last=last):
                rows.append(self._forward_backward(micro, target_tokens, last=last))
        return rows

    def _forward_backward(self, micro: MicroBatch, target_tokens: int, *, last: bool) -> _RowSums:
        """Gradients of a micro-batch, and the sums of its rows."""
        input_ids = micro.input_ids.to(self.device, non_blocking=True)
        num_valid = micro.num_valid.to(self.device, non_blocking=True)
        output = self.sharding.model(input_ids=input_ids)
        losses_BT = token_losses(output.logits, input_ids, num_valid)
        besides: dict[str, Tensor] = {}
        objective_BT = losses_BT
        if micro.teacher is not None and self._training.teacher_weight is not None:
            given_B = micro.teacher.is_given.to(self.device, non_blocking=True)
            divergences_BT = teacher_divergences(output.logits, micro.teacher, num_valid)
            objective_BT = mixed(losses_BT, divergences_BT, given_B, self._training.teacher_weight)
            besides[TEACHER] = divergences_BT.detach().sum(1, dtype=torch.float64)
        trained_on = objective_BT.sum()
        if self._router is not None:
            router_B = self._router.summed(output.router_logits, num_valid)
            trained_on = trained_on + self._router.coefficient * router_B.sum()
            besides[ROUTER] = router_B.detach().double()
        # DDP, FSDP2 and DeepSpeed average gradients over ranks; none of them knows of the accumulation
        loss = normalized(trained_on, global_target_tokens=target_tokens, averaged_over=self.world_size)
        self.sharding.backward(loss, last=last)
        return _RowSums(nats=losses_BT.detach().sum(1, dtype=torch.float64), besides=besides)

    # Measuring

    def eval_logits(self, input_ids_BT: "Tensor") -> "Tensor":
        """Logits [B, T, V] in evaluation mode, without gradient, under the run's autocast."""
        model = self.sharding.model
        model.eval()
        with torch.no_grad():
            logits: Tensor = model(input_ids=input_ids_BT).logits
        model.train()
        self.sharding.release()
        return logits

    @contextmanager
    def trial(self, *, rate_scale: float) -> Iterator[Callable[[], None]]:
        """Keep weights and optimizer: a call of the value, and the exit, restore them bit for bit. Steps inside are
        made at ``rate_scale`` times the current learning rate.
        """
        groups = self.sharding.param_groups
        rates = [group["lr"] for group in groups]
        tensors = self.sharding.state_tensors()
        kept = [tensor.clone() for tensor in tensors]

        def undo() -> None:
            for tensor, old in zip(tensors, kept, strict=True):
                tensor.copy_(old)
            self.sharding.publish()

        try:
            for group in groups:
                group["lr"] *= rate_scale
            yield undo
        finally:
            undo()
            self.sharding.clear_gradients()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def trial_step(self, input_ids_BT: "Tensor", num_valid_B: "Tensor", *, target_tokens: int, seed: int) -> None:
        """One optimizer step on the rows of all ranks, in micro-batches; a step that is not finite is left out."""
        seed_dropout(seed, self.device)
        size = self._training.micro_batch
        self._accumulate(
            [
                MicroBatch(input_ids=input_ids_BT[start : start + size], num_valid=num_valid_B[start : start + size])
                for start in range(0, len(input_ids_BT), size)
            ],
            target_tokens,
        )
        self.sharding.step()

    @contextmanager
    def scaled_gradients(self) -> Iterator[Callable[..., list["Tensor"]]]:
        """Inside, a call gives this rank's part of a gradient, scaled as ``adam_scales`` says; weights and optimizer
        are kept, as in ``trial``.

        A step without momentum leaves the gradient in Adam's first moment, reduced and spread as the sharding does it:
        no sharding needs a way of its own to show gradients.
        """
        groups = self.sharding.param_groups
        betas = [group["betas"] for group in groups]
        with self.trial(rate_scale=0.0), self.sharding.unclipped():
            parts = self.sharding.adam_parts()
            factors = scales(parts, num_weights=self.sharding.num_trained, reduce=self.reduce, device=self.device)

            def gradient(ids_BT: "Tensor", num_valid_B: "Tensor", *, target_tokens: int, seed: int) -> list["Tensor"]:
                for part in parts:
                    part.first.zero_()  # what is read where the step is left out
                self.trial_step(ids_BT, num_valid_B, target_tokens=target_tokens, seed=seed)
                return [part.first * factor for part, factor in zip(parts, factors, strict=True)]

            try:
                for group, (_, beta2) in zip(groups, betas, strict=True):
                    group["betas"] = (0.0, beta2)
                yield gradient
            finally:
                for group, before in zip(groups, betas, strict=True):
                    group["betas"] = before

    # Writing

    @property
    def context(self) -> int | None:
        """Tokens that prompt and text may have together; None where the model does not say."""
        return context_of(self.sharding)

    def write_texts(self, batch: TextBatch | None, *, end: int) -> list[list[int]]:
        """(all) The new tokens of this rank's prompts, up to and without ``end``; with ``None`` it only takes part."""
        return written(self.sharding, batch, end=end, device=self.device)

    # State

    def capture(self, *, detached: bool) -> Callable[[Path], None]:
        """A function that writes this rank's part of weights and optimizer into a folder; all ranks call it.
        ``detached`` copies all to the host, so that training may continue meanwhile.
        """
        captured = self.sharding.captured(detached=detached)
        return lambda folder: write(folder, captured, self.writers)

    def restore(self, folder: Path) -> None:
        """Load what ``capture`` wrote, under whatever engine and on however many ranks."""
        self.sharding.restore(folder)

    def save_model(self, folder: Path) -> None:
        """Write what ``AutoModelForCausalLM.from_pretrained`` loads, in the form that the model came in."""
        model = self.sharding.whole_model()
        if model is not None:
            save_model(model, folder, self._form)

    def continuations(self, prompts: Sequence[Sequence[int]], *, num_tokens: int, seed: int) -> list[list[int]]:
        """Sampled continuations (temperature 0.8, the 50 likeliest tokens), one per prompt; none off the main rank."""
        model: Any = self.sharding.whole_model()
        if model is None:
            for _ in prompts:  # as many as on the main rank
                beat()
            return []
        try:
            return _continued(model, prompts, num_tokens=num_tokens, seed=seed)
        finally:
            model.train()


def _continued(model: Any, prompts: Sequence[Sequence[int]], *, num_tokens: int, seed: int) -> list[list[int]]:
    model.eval()
    texts = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for prompt in prompts:
            beat()
            ids = torch.tensor([list(prompt)], device=model.device)
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_tokens,
                do_sample=True,
                temperature=0.8,
                top_k=50,
                synced_gpus=False,  # under ZeRO-3 it would wait for the other ranks
            )
            texts.append(out[0, len(prompt) :].tolist())
    return texts
