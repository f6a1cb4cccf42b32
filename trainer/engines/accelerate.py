"""The engine over Hugging Face Accelerate: one process, DDP, and whatever else ``accelerate launch`` says.

Accelerate launches, wraps and averages; data, order, loss normalization and schedule are ours. The loader is never
given to ``prepare`` (it would deal the ranks a second time), nor is a scheduler (it would count the steps once per
process), and accumulation is a plain loop with ``no_sync`` (Accelerate would divide the loss again).
"""

# B rows (of a micro-batch, or of a step on this rank), T tokens, V vocabulary, K sources

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from trainer.base.heartbeat import beat
from trainer.base.records import FloatArray
from trainer.data.loader import MicroBatch
from trainer.engines.adam_scales import AdamPart, scales
from trainer.engines.checkpoint_io import Writers, adam_state, on_the_host, open_writers, read, training_state, write
from trainer.engines.launch import collective_timeout, open_accelerator
from trainer.engines.step_stats import PendingStep, SummedFigures, by_source
from trainer.model.config import TrainingConfig
from trainer.model.loss import normalized, token_losses
from trainer.model.optimizer import build_optimizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from trainer.data.loader import StepBatch

QUIET_S = 0.05  # ten times the interval after which Python's lock changes hands


class AccelerateEngine:
    """One process or DDP. See ``parts.Engine`` for the verbs."""

    _clips = True  # off while gradients are measured

    def __init__(
        self, model: "PreTrainedModel", training: TrainingConfig, *, seed: int, accelerator: Accelerator | None = None
    ) -> None:
        self._accelerator = accelerator or open_accelerator(training)
        self._seed, self._training = seed, training
        if training.compile:
            model.compile()
        self._model, self._optimizer = self._prepare(model)
        if isinstance(self._model, DistributedDataParallel):
            # rotary frequencies are equal by construction; DDP would send them round before every forward, readings too
            self._model.broadcast_buffers = False
        self._model.train()
        self.writers: Writers = open_writers(collective_timeout(training))

    def _prepare(self, model: "PreTrainedModel") -> tuple[Any, Any]:
        """Model and optimizer on their devices, as the launcher asks."""
        model.to(self._accelerator.device)
        optimizer = build_optimizer(model, self._training)
        prepared: tuple[Any, Any] = self._accelerator.prepare(model, optimizer)
        return prepared

    # Who and where

    @property
    def rank(self) -> int:
        """This process's number among all."""
        return int(self._accelerator.process_index)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where tensors belong."""
        return self._accelerator.device  # type: ignore[no-any-return]

    @property
    def num_parameters(self) -> int:
        """Parameters of the model, tied ones counted once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    # A step

    def train_step(self, batch: "StepBatch", *, learning_rate: float, stop: bool, ledger_digest: int) -> PendingStep:
        """One optimizer step on this rank's part of the global batch, launched; nothing here waits for the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        seed_dropout(step_seed(self._seed, batch.step, self.rank), self.device)
        nats = []
        for number, micro in enumerate(batch.micro_batches):
            last = number == len(batch.micro_batches) - 1
            with self._accumulating(last=last):
                nats.append(self._forward_backward(micro, batch.target_tokens, last=last))
        sources_B = batch.row_sources.to(self.device, non_blocking=True)
        nats_K = by_source(torch.cat(nats), sources_B, num_sources=len(batch.source_targets))
        return self._update(batch, nats_K, stop=stop, ledger_digest=ledger_digest)

    def _accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self._accelerator.no_sync(self._model)

    def _forward_backward(self, micro: MicroBatch, target_tokens: int, *, last: bool) -> "Tensor":
        """Nats [B] of the rows, float64."""
        input_ids = micro.input_ids.to(self.device, non_blocking=True)
        num_valid = micro.num_valid.to(self.device, non_blocking=True)
        losses_BT = token_losses(self._model(input_ids=input_ids).logits, input_ids, num_valid)
        # DDP, FSDP2 and DeepSpeed average gradients over ranks; none of them is told of the accumulation
        loss = normalized(losses_BT.sum(), global_target_tokens=target_tokens, averaged_over=self.world_size)
        self._backward(loss, last=last)
        return losses_BT.detach().sum(1, dtype=torch.float64)

    def _backward(self, loss: "Tensor", *, last: bool) -> None:
        """Add the gradient of a micro-batch; ``last`` says that the step follows."""
        self._accelerator.backward(loss)

    def _update(self, batch: "StepBatch", nats_K: "Tensor", *, stop: bool, ledger_digest: int) -> PendingStep:
        norm = self._clip().detach()
        summed = self._summed(batch, nats_K, stop=stop, ledger_digest=ledger_digest)
        is_bad = ~torch.isfinite(norm + summed.nats)
        self._step(is_bad)
        return PendingStep(batch, summed, norm, is_bad)

    def _summed(self, batch: "StepBatch", nats_K: "Tensor", *, stop: bool, ledger_digest: int) -> SummedFigures:
        return SummedFigures(
            nats_K, batch_hash=batch.batch_hash, stop=stop, ledger_digest=ledger_digest, world_size=self.world_size
        )

    def _step(self, is_bad: "Tensor") -> None:
        """Step and clear the gradients; where ``is_bad`` nothing changes.

        Accelerate's wrapper adds loss scaling, which neither fp32 nor bf16 has, and looks for a package on the disk
        twice a step: 0.3 ms.
        """
        optimizer = _raw(self._optimizer)
        if self.device.type == "cuda":  # the fused kernel skips on the device itself, so that the host need not look
            optimizer.found_inf, optimizer.grad_scale = is_bad.float(), None
            optimizer.step()
        elif not is_bad:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _clip(self) -> "Tensor":
        """Scale the gradients down to the recipe's norm; the norm over all ranks before it, a plain scalar."""
        limit = self._training.max_grad_norm if self._clips else torch.inf
        norm: Any = torch.nn.utils.clip_grad_norm_(self._model.parameters(), limit)
        whole: Tensor = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return whole

    # Measuring

    def eval_logits(self, input_ids_BT: "Tensor") -> "Tensor":
        """Logits [B, T, V] in evaluation mode, without gradient, under the run's autocast."""
        self._model.eval()
        with torch.no_grad():
            logits: Tensor = self._model(input_ids=input_ids_BT).logits
        self._model.train()
        return logits

    def reduce(self, array: FloatArray) -> FloatArray:
        """The float64 array summed over all ranks."""
        return summed_over_ranks(array, self.device) if self.world_size > 1 else array

    @contextmanager
    def trial(self, *, rate_scale: float) -> Iterator[Callable[[], None]]:
        """Keep weights and optimizer: a call of the value, and leaving, bring them back bit for bit. Steps inside are
        made at ``rate_scale`` times the present learning rate.
        """
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        tensors = self._state_tensors()
        kept = [tensor.clone() for tensor in tensors]

        def back() -> None:
            for tensor, old in zip(tensors, kept, strict=True):
                tensor.copy_(old)
            self._state_is_back()

        try:
            for group in groups:
                group["lr"] *= rate_scale
            yield back
        finally:
            back()
            self._optimizer.zero_grad(set_to_none=True)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _state_tensors(self) -> list["Tensor"]:
        """Everything that a step changes, on this rank."""
        return [tensor.detach() for tensor in self._training_state().values()]

    def _state_is_back(self) -> None:
        """The state tensors have been set: whatever is made from them is due."""

    def trial_step(self, input_ids_BT: "Tensor", num_valid_B: "Tensor", *, target_tokens: int, seed: int) -> None:
        """One optimizer step on the rows of all ranks, in micro-batches; a step that is not finite is left out."""
        seed_dropout(seed, self.device)
        starts = range(0, len(input_ids_BT), self._training.micro_batch)
        for start in starts:
            rows = slice(start, start + self._training.micro_batch)
            micro, last = MicroBatch(input_ids=input_ids_BT[rows], num_valid=num_valid_B[rows]), start == starts[-1]
            with self._accumulating(last=last):
                self._forward_backward(micro, target_tokens, last=last)
        self._finish_trial_step()

    def _finish_trial_step(self) -> None:
        self._step(~torch.isfinite(self._clip().detach()))

    @contextmanager
    def scaled_gradients(self) -> Iterator[Callable[..., list["Tensor"]]]:
        """Inside, a call gives this rank's part of a gradient, as ``engines.scales`` has it; weights and optimizer are
        kept, as in a rehearsal.

        A step without momentum leaves the gradient in Adam's first moment, reduced and spread as the engine does it: no
        engine needs a way of its own to show gradients.
        """
        groups = self._optimizer.param_groups
        betas = [group["betas"] for group in groups]
        with self.trial(rate_scale=0.0), self._without_clipping():
            parts = self._adam_parts()
            factors = scales(parts, num_weights=self.num_parameters, reduce=self.reduce, device=self.device)

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

    @contextmanager
    def _without_clipping(self) -> Iterator[None]:
        self._clips = False
        try:
            yield
        finally:
            self._clips = True

    def _adam_parts(self) -> list[AdamPart]:
        """Of every weight that is trained, on one rank each: all ranks hold all, so they take turns."""
        return self._all_adam_parts()[self.rank :: self.world_size]

    def _all_adam_parts(self) -> list[AdamPart]:
        optimizer = _raw(self._optimizer)
        groups = optimizer.param_groups
        return [AdamPart.of(adam_state(optimizer, weight), group) for group in groups for weight in group["params"]]

    # Agreeing

    def broadcast(self, value: Any) -> Any:
        """The main rank's value."""
        if self.world_size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""
        return list(gather_object([value])) if self.world_size > 1 else [value]

    # Keeping

    def capture(self, *, detached: bool) -> Callable[[Path], None]:
        """A function that writes this rank's part of weights and optimizer into a folder; all ranks call it.
        ``detached`` copies all to the host, so that training may go on meanwhile.
        """
        state = self._training_state()
        kept = on_the_host(state) if detached else state
        return lambda folder: write(folder, kept, self.writers)

    def restore(self, folder: Path) -> None:
        """Load what ``snapshot`` wrote, under whatever engine and on however many ranks."""
        read(folder, self._training_state())

    def _training_state(self) -> dict[str, "Tensor"]:
        return training_state(bare(self._model), _raw(self._optimizer))

    def save_model(self, folder: Path) -> None:
        """Write what ``AutoModelForCausalLM.from_pretrained`` loads."""
        model = self._whole_model()
        if model is not None:
            model.save_pretrained(str(folder))

    def _whole_model(self) -> "PreTrainedModel | None":
        """(all) On the main rank the model with all its weights, without what the engine wraps around it."""
        return bare(self._model) if self.is_main else None

    def continuations(self, prompts: Sequence[Sequence[int]], *, num_tokens: int, seed: int) -> list[list[int]]:
        """Sampled continuations (temperature 0.8, the 50 likeliest tokens), one per prompt; none off the main rank."""
        model: Any = self._whole_model()
        if model is None:
            for _ in prompts:  # as far as the main rank will be
                beat()
            return []
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
        model.train()
        return texts

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            # Gloo's destructor joins its threads with Python's lock held, and a thread that has yet to drop the tensors
            # of the last collective waits for that lock: without a pause such runs never end.
            time.sleep(QUIET_S)
        self._accelerator.end_training()


def summed_over_ranks(array: FloatArray, device: torch.device) -> FloatArray:
    """(all) The float64 sum of every rank's array."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(device)
    torch.distributed.all_reduce(tensor)
    return tensor.cpu().numpy()


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from: anew for each step, so that a resume needs no saved state.

    ``torch.manual_seed`` does the same and asks after every kind of device, formatting a stack trace for each that is
    not there: 0.1 to 0.4 ms a step, where this takes 2 us.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for the random numbers of one step on one rank."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def bare(model: Any) -> Any:
    """The model below DDP, and below Lightning's module. Accelerate's own ``unwrap_model`` imports DeepSpeed where it
    is installed: 2 s, and words on stdout.
    """
    wrapped = getattr(model, "module", model)
    return getattr(wrapped, "trained_model", wrapped)


def _raw(optimizer: Any) -> Any:
    """The torch optimizer below Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)
