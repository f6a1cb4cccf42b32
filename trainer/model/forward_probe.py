"""Runs a model, before it is trained, where a wrong one gives itself away: is it causal, does it run at full length.

Memory is asked of this machine, now: where it does not suffice, that is said and nothing is refused, for the training
may have other devices or another kernel.
"""

# B rows, T tokens, V vocabulary, D width

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from trainer.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CAUSAL_LENGTH = 16  # tokens: enough for a later one to reach an earlier one through any layer
LEAK = 1e-5  # of the largest logit: a causal model gives the same bits, or sums in another order
TIMES_NOISE = 10.0  # what two equal rows differ by is noise
NO_MEMORY = ("tried to allocate", "not enough memory", "out of memory", "cannot allocate memory", "bad_alloc")
OF_LENGTH = ("size", "shape", "index", "dimension", "position", "length", "out of range", "must match", "side assert")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether it says that memory did not suffice: torch has a class of its own for that on a GPU only."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in NO_MEMORY)


def in_one_line(error: BaseException) -> str:
    """The kind of an error, and the first of its words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def all_threads() -> Iterator[None]:
    """With every core of this process: torchrun gives each process one, and the others wait meanwhile."""
    import torch

    before = torch.get_num_threads()
    with suppress(AttributeError):  # where the system does not say which cores are this process's
        torch.set_num_threads(max(before, len(os.sched_getaffinity(0))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_forward(model: "PreTrainedModel", *, sequence_length: int) -> list[str]:
    """One short forward that shows whether the model is causal, and one at ``sequence_length`` tokens; what could not
    be asked for want of memory.

    ``UserError`` when the last token changes the logits of an earlier position, or when the model cannot run at that
    length. The model is left as it was, in its mode and on its device.
    """
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), checked_embeddings(model):
            _check_causal(model, min(CAUSAL_LENGTH, sequence_length))
            _check_length(model, torch.full((1, sequence_length), _some_id(model), device=model.device))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return [f"model: not run at full length ({sequence_length} tokens): {in_one_line(error)}"]
    finally:
        model.train(was_training)
    return []


@contextmanager
def checked_embeddings(model: "PreTrainedModel") -> Iterator[None]:
    """On a GPU an index beyond a table kills the whole process's context: there it is looked for before the look-up."""
    if model.device.type != "cuda":
        yield
        return
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Checked(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.embedding.default and int(args[1].max()) >= args[0].shape[0]:
                raise IndexError("index out of range in an embedding")
            return func(*args, **(kwargs or {}))

    with Checked():  # type: ignore[no-untyped-call]
        yield


def _some_id(model: "PreTrainedModel") -> int:
    """An id of the vocabulary that does not stand for padding, which some models give no position of its own."""
    return 1 if getattr(model.config.get_text_config(), "pad_token_id", None) == 0 else 0


def _check_causal(model: "PreTrainedModel", length: int) -> None:
    import torch

    if length < 2:
        return
    vocabulary = int(cast(Any, model.get_input_embeddings()).weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, vocabulary, (1, length), generator=generator).repeat(3, 1).to(model.device)
    ids_BT[2, -1] = (ids_BT[2, -1] + 1) % vocabulary
    logits_BTV = _finite(model, _told(model, ids_BT, lambda: _run(model, ids_BT).logits)).float()
    noise, earlier_TV = (logits_BTV[0] - logits_BTV[1]).abs().max(), (logits_BTV[0] - logits_BTV[2])[:-1].abs()
    if float(earlier_TV.max()) > TIMES_NOISE * float(noise) + LEAK * float(logits_BTV.abs().max()):
        first = int((earlier_TV.amax(dim=1) > 0).nonzero()[0])
        raise UserError(
            f"the model is not causal: its logits at position {first} change with the token at position {length - 1}, "
            "so it would be trained to copy what it is to predict",
            got=model.config.model_type,
            remedy="Choose a decoder; an encoder that can be one needs is_decoder: true in its configuration",
        )


def _check_length(model: "PreTrainedModel", ids_BT: "Tensor") -> None:
    """Run the ids, without the logits of all of them: T x V numbers are more than the layers take. In bf16 on a GPU,
    for whose fp32 there is no attention that stays within T.
    """
    import torch

    with ExitStack() as stack:
        if ids_BT.device.type == "cuda":
            stack.enter_context(torch.autocast("cuda", dtype=torch.bfloat16))
        _finite(model, _told(model, ids_BT, lambda: _last_logits(model, ids_BT)))


def _last_logits(model: "PreTrainedModel", ids_BT: "Tensor") -> "Tensor":
    """The last position's logits [B, 1, V]; where the architecture cannot give them alone, what comes before them
    [B, T, D].
    """
    if _takes(model, "logits_to_keep"):
        logits: Tensor = _run(model, ids_BT, logits_to_keep=1).logits
        return logits
    if (body := model.base_model) is not model:
        try:
            hidden: Tensor = _run(body, ids_BT)[0]
            return hidden
        except Exception as error:
            if is_out_of_memory(error):
                raise
    whole: Tensor = _run(model, ids_BT).logits  # and its error, if the body alone was not asked rightly
    return whole


def _takes(module: Any, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters


def _run(module: Any, ids_BT: "Tensor", **arguments: int) -> Any:
    """What the module gives for the ids, without a cache."""
    if _takes(module, "use_cache"):
        arguments["use_cache"] = False
    return module(input_ids=ids_BT, **arguments)


def _told(model: "PreTrainedModel", ids_BT: "Tensor", run: Callable[[], "Tensor"]) -> "Tensor":
    """What ``run`` gives; ``UserError`` when the model cannot take the ids, but for want of memory."""
    try:
        return run()
    except Exception as error:  # whatever the code of a model raises over its own configuration
        if is_out_of_memory(error):
            raise
        length = ids_BT.shape[1]
        raise UserError(
            f"the model cannot run on {length} tokens: {in_one_line(error)}",
            got=model.config.model_type,
            remedy=_remedy(model, error, length),
        ) from error


def _remedy(model: "PreTrainedModel", error: Exception, length: int) -> str | None:
    """Against a context that is too short, where an index or a size does not fit; against a missing padding id, where
    the code meets None; against nothing else, of which the words of the library say more.
    """
    words = str(error).lower()
    counts = (
        "model that counts positions from its padding id needs model.config.pad_token_id, and a context longer by "
        "that id and one"
    )
    if isinstance(error, IndexError) or (
        isinstance(error, RuntimeError | ValueError | AssertionError) and any(word in words for word in OF_LENGTH)
    ):
        return f"Its context may be shorter than data.sequence_length ({length}); a {counts}"
    if "nonetype" in words and getattr(model.config.get_text_config(), "pad_token_id", None) is None:
        return f"A {counts}"
    return None


def _finite(model: "PreTrainedModel", numbers: "Tensor") -> "Tensor":
    if not bool(numbers.isfinite().all()):
        raise UserError(
            "the model's logits are not finite before it is trained",
            got=model.config.model_type,
            remedy="Look at its configuration: a scale, an epsilon or an initialization is out of range",
        )
    return numbers
