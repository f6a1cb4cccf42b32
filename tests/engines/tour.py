"""What the ranks of any engine do in its tests: save, restore, make trial steps, meet numbers that are not finite."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.engines.steps import LENGTH, STORES, VOCABULARY, Bench, bench, tiny_model
from trainer.engines.checkpoint_io import read
from trainer.evaluate.eval_batches import EvalSamples
from trainer.evaluate.evidence.gradient_alignment import measure_alignment

PROBE = torch.arange(2 * LENGTH).reshape(2, LENGTH) % VOCABULARY


def local_state(on: Bench) -> list[torch.Tensor]:
    """Masters and moments on this rank, however they are spread."""
    return [part.to_local() if hasattr(part, "to_local") else part for part in on.engine.sharding.state_tensors()]


def held(on: Bench) -> list[Any]:
    """All that this rank holds of weights and optimizer, and what the model makes of two rows."""
    parts = [part.detach().float().numpy().copy() for part in local_state(on)]
    return [*parts, on.engine.eval_logits(PROBE).float().numpy()]


def tour(folder: Path, precision: str) -> dict[str, Any]:
    """What a rank observes: everything an engine promises besides training itself."""
    built = folder.with_name("built")
    os.environ["TORCH_EXTENSIONS_DIR"] = str(built)
    expected = dict(tiny_model().named_parameters())  # before the engine: ZeRO-3 partitions what is built after it
    with bench(micro_batch=2, global_batch=7, precision=precision) as on:
        on.engine.capture(detached=False)(folder.with_name("begun"))
        whole = {name: torch.empty_like(parameter) for name, parameter in expected.items()}
        read(folder.with_name("begun"), {f"model.{name}": tensor for name, tensor in whole.items()})
        on.step()
        on.step()
        alignments = aligned(on)  # before anything else: after two steps
        return {
            "aligned": alignments,
            "begun": all(torch.equal(whole[name], parameter) for name, parameter in expected.items()),
            "compiled": sorted(path.name for path in built.rglob("*")),
            "counted": {int(part) for part in local_state(on) if part.ndim == 0},
            "rates": {group["lr"] for group in on.engine.sharding.param_groups},
            "part": sum(tensor.numel() for tensor in local_state(on)) / on.engine.num_parameters,
            "restored": restored(on, folder),
            "trial_steps": trial_steps(on),
            "skipped": {name: skipped(on, poison) for name, poison in POISONS.items()},
            "collectives": own_collectives(on),
        }


def restored(on: Bench, folder: Path) -> tuple[Any, Any]:
    """Two steps after a snapshot, and the same two after it was restored, with all that is held in the end."""
    on.engine.capture(detached=False)(folder)
    state = on.stream.state
    expected = [on.step(), on.step()], held(on)
    on.engine.restore(folder)
    on.stream.state = state
    on.stream.append([])
    return expected, ([on.step(), on.step()], held(on))


def trial_steps(on: Bench) -> tuple[Any, Any, Any]:
    """All that is held before, inside and after trial steps."""
    before = held(on)
    with on.engine.trial(rate_scale=0.5) as back:
        for _ in range(2):
            back()
            on.engine.trial_step(PROBE, torch.tensor([LENGTH, 3]), target_tokens=LENGTH + 1, seed=3)
        inside = held(on)
    return before, inside, held(on)


def aligned(on: Bench) -> tuple[Any, Any, Any]:
    """All that is held before and after alignments were measured, and what they are. Parts of one, two and three rows:
    ranks without a row, or with padding.
    """
    before, settings = held(on), [(group["lr"], group["betas"]) for group in on.engine.sharding.param_groups]
    parts = [samples(0, start) for start in range(0, 12, 3)]
    alignments = measure_alignment(
        parts, {"real": samples(0, 12, 20), "made": samples(1, 0, 14)}, on.engine, step=3, seed=1
    )
    assert settings == [(group["lr"], group["betas"]) for group in on.engine.sharding.param_groups]
    return before, held(on), alignments


def samples(source: int, start: int, count: int = 3) -> EvalSamples:
    """Rows of a source; the last it has is half padding."""
    rows = slice(start, start + count)
    return EvalSamples(token_ids=STORES[source].tokens[rows], num_valid=STORES[source].valid[rows])


def alignments() -> Any:
    """After two steps, on however many ranks."""
    with bench(micro_batch=2, global_batch=7) as on:
        on.step()
        on.step()
        return aligned(on)


def infinite_loss(_module: Any, _given: Any, logits: torch.Tensor) -> torch.Tensor:
    """A masked target: the loss is infinite, its gradient is not."""
    return logits.masked_fill(torch.ones_like(logits, dtype=torch.bool), -torch.inf)


def nan_loss(_module: Any, _given: Any, logits: torch.Tensor) -> torch.Tensor:
    return logits * float("nan")


def nan_gradient(_module: Any, _given: Any, logits: torch.Tensor) -> torch.Tensor:
    """The loss stays as it is."""
    if logits.requires_grad:
        logits.register_hook(lambda gradient: gradient * float("nan"))
    return logits


POISONS: dict[str, Callable[..., Any]] = {
    "infinite loss": infinite_loss,
    "loss that is nan": nan_loss,
    "gradient that is nan": nan_gradient,
}


def skipped(on: Bench, poison: Callable[..., Any]) -> tuple[bool, Any, Any, bool]:
    """Whether a step poisoned on the last rank alone was taken, what was held before and after, and whether the next
    step is taken.
    """
    before = held(on)
    with poisoned(on, poison):
        figures = on.step()
    after = held(on)
    return figures.updated, before, after, on.step().updated


@contextmanager
def poisoned(on: Bench, poison: Callable[..., Any]) -> Iterator[None]:
    is_last = on.engine.rank == on.engine.world_size - 1
    hook = on.model.lm_head.register_forward_hook(poison) if is_last else None
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def own_collectives(on: Bench) -> list[int]:
    """Sizes of the all-reduces of a step that this package asks for, by who called."""
    import sys

    sizes: list[int] = []
    original = torch.distributed.all_reduce

    def counted(tensor: torch.Tensor, *arguments: Any, **more: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"].startswith("trainer."):
            sizes.append(tensor.numel())
        return original(tensor, *arguments, **more)

    torch.distributed.all_reduce = counted
    try:
        on.step()
    finally:
        torch.distributed.all_reduce = original
    return sizes


def leave(folder: Path) -> list[Any]:
    """Three steps, a checkpoint, and the figures of the two after it, which are kept with it."""
    with bench(micro_batch=2, global_batch=7) as on:
        for _ in range(3):
            on.step()
        on.engine.capture(detached=True)(folder)
        figures = [on.step(), on.step()]
        if on.engine.is_main:
            (folder / "after.json").write_text(json.dumps([(step.loss, step.grad_norm) for step in figures]))
        return figures


def take_up(folder: Path) -> list[Any]:
    """The two steps after somebody's checkpoint."""
    with bench(micro_batch=2, global_batch=7) as on:
        on.engine.restore(folder)
        on.stream.state = on.stream.plan.state(4)
        on.stream.append([])
        return [on.step(), on.step()]


def uneven(micro_batch: int, global_batch: int) -> list[Any]:
    """Four steps and a forward, whatever part of the batch falls to this rank."""
    with bench(micro_batch=micro_batch, global_batch=global_batch) as on:
        figures = [on.step() for _ in range(4)]
        on.engine.eval_logits(PROBE)
        return figures


def balanced(folder: Path) -> list[Any]:
    """Two steps of a mixture of experts that is kept in balance."""
    keys = {"num_hidden_layers": 1, "num_local_experts": 4, "num_key_value_heads": 1}
    keys |= {"output_router_logits": True, "router_aux_loss_coef": 1.0}
    with bench(micro_batch=2, global_batch=7, model=tiny_model(architecture="mixtral", **keys)) as on:
        return [on.step(), on.step()]


EMBEDDINGS = ("one matrix", "two matrices", "two where the configuration says one")


def with_embeddings(embeddings: str, folder: Path) -> Any:
    """A model whose input and output embedding are as said; ``folder`` is for one that is loaded."""
    if embeddings != EMBEDDINGS[2]:
        return tiny_model(tied=embeddings == EMBEDDINGS[0])
    tiny_model(tied=False).save_pretrained(folder)
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": True}))
    return tiny_model(pretrained=folder)


def written_as_transformers_loads_it(folder: Path, tied: Sequence[str]) -> dict[str, tuple[Any, Any, Any]]:
    """By what is tied: what the model in the engine makes of two rows, what the written one makes, and texts."""
    from transformers import AutoModelForCausalLM

    rank, seen = os.environ["RANK"], {}
    # before any engine, and the written ones after all: under ZeRO-3 transformers partitions what it builds
    models = {embeddings: with_embeddings(embeddings, folder / f"of-{rank}") for embeddings in tied}
    for embeddings, model in models.items():
        with bench(micro_batch=2, global_batch=7, model=model) as on:
            on.step()
            logits = on.engine.eval_logits(PROBE).float().numpy()
            on.engine.save_model(folder / embeddings)
            seen[embeddings] = (logits, on.engine.continuations([[1, 2, 3]], num_tokens=4, seed=1))
    if rank != "0":
        return {embeddings: (logits, None, texts) for embeddings, (logits, texts) in seen.items()}
    if os.environ.get("ACCELERATE_USE_DEEPSPEED"):
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    loaded = {embeddings: AutoModelForCausalLM.from_pretrained(folder / embeddings) for embeddings in seen}
    with torch.no_grad():
        return {
            embeddings: (logits, loaded[embeddings](input_ids=PROBE).logits.numpy(), texts)
            for embeddings, (logits, texts) in seen.items()
        }
