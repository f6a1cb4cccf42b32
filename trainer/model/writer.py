"""Writes texts with a causal language model of transformers, in batches.

Prompts are padded on the left under an attention mask, as a decoder needs it. A tokenizer with a chat template is asked
in its chat format. Only safetensors are read and no code comes with a model, as in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.base.errors import UserError
from trainer.base.failures import warn
from trainer.model.files import key_mapping, weight_files
from trainer.model.probes import check_loading

if TYPE_CHECKING:
    from torch import Tensor


_WANTED = ["*.safetensors", "*.json", "*.jinja"]  # of a hub repository: weights, settings, tokenizer, chat template


@dataclass(frozen=True, kw_only=True)
class Written:
    """One text, with the tokens that went in and came out (its end-of-sequence token is none of them)."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    is_cut_off: bool  # it reached the limit before it ended
    is_too_long: bool = False  # the prompt leaves no room for the text in the model's context: nothing was written


def fetched_files(model: str, whose: str = "generator") -> list[Path]:
    """The safetensors that transformers reads of a model in a folder or on the hub, sorted by name. ``UserError`` where
    there are none.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, allow_patterns=_WANTED, ignore_patterns=["consolidated*"]))
        except Exception as error:  # whatever the hub's client or the network says
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            remedy = "Name a folder as `save_pretrained` writes it, or a hub id that can be reached"
            raise UserError(f"the {whose}'s model cannot be fetched: {reason}", got=model, remedy=remedy) from error
    files = weight_files(folder)
    if not files:
        remedy = "Name a folder as `save_pretrained` writes it, such as the `model` folder of a run"
        raise UserError(f"the {whose}'s model has no *.safetensors", got=model, remedy=remedy)
    return files


def load_frozen(model: str, whose: str = "generator") -> Any:
    """A model that is not trained: on the GPU (in bf16) where there is one, else on the CPU (in fp32).

    ``UserError`` where a weight is in no file, as in training.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    on_gpu, folder = torch.cuda.is_available(), str(fetched_files(model, whose)[0].parent)
    for note in check_loading(folder):
        warn(note)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            key_mapping=key_mapping(folder),
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise _unloadable(model, whose, error) from error
    return loaded.to("cuda" if on_gpu else "cpu").eval().requires_grad_(False)


def _unloadable(model: str, whose: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else None
    return UserError(f"the {whose}'s model cannot be loaded", got=model, remedy=reason)


class Writer:
    """A model and its tokenizer, as ``load_frozen`` loads it."""

    def __init__(self, model: str, *, system: str | None = None) -> None:
        from transformers import AutoTokenizer

        self.model: Any = load_frozen(model)
        folder = str(fetched_files(model)[0].parent)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise _unloadable(model, "generator", error) from error
        self.model.generation_config.use_cache = True  # a model that is being trained has it off, and is saved so
        self.system = system
        self.context: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self._adds_special = self.tokenizer.chat_template is None  # a chat template writes them itself
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def write(
        self,
        prompts: Sequence[str],
        *,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        seed: int,
        before: Sequence[Sequence[Mapping[str, str]]] | None = None,
    ) -> list[Written]:
        """One text for each prompt, sampled under ``seed``; the caller's random state is left alone. ``before`` has for
        each prompt the messages (role and content) before it.
        """
        asked = [self._asked(prompt, messages) for prompt, messages in zip(prompts, before or repeat(()), strict=False)]
        encoded: list[list[int]] = self.tokenizer(asked, add_special_tokens=self._adds_special)["input_ids"]
        lengths = [len(ids) for ids in encoded]
        fits = [self.context is None or length + max_new_tokens <= self.context for length in lengths]
        room = [ids for ids, fit in zip(encoded, fits, strict=True) if fit]
        written = iter(self._write(room, temperature, top_p, max_new_tokens, seed) if room else ())
        return [
            next(written)
            if fit
            else Written(text="", prompt_tokens=length, completion_tokens=0, is_cut_off=False, is_too_long=True)
            for fit, length in zip(fits, lengths, strict=True)
        ]

    def _write(
        self, prompts: Sequence[list[int]], temperature: float, top_p: float, max_new_tokens: int, seed: int
    ) -> list[Written]:
        import torch

        inputs = self.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        inputs = {name: inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        chosen: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            chosen = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.inference_mode():
            torch.manual_seed(seed)
            out = self.model.generate(
                **inputs, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id, **chosen
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        lengths = inputs["attention_mask"].sum(1).tolist()
        return [self._written(ids, length) for ids, length in zip(new, lengths, strict=True)]

    def _asked(self, prompt: str, before: Sequence[Mapping[str, str]]) -> str:
        """The conversation as the model is given it: in its chat format where it has one, else as paragraphs."""
        if self._adds_special:
            return "\n\n".join([*(message["content"] for message in before), prompt])
        rendered: str = self.tokenizer.apply_chat_template(
            self._messages(prompt, before), tokenize=False, add_generation_prompt=True
        )
        return rendered

    def _messages(self, prompt: str, before: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
        said = [*before, {"role": "user", "content": prompt}]
        return said if self.system is None else [{"role": "system", "content": self.system}, *said]

    def _written(self, ids: "Tensor", prompt_tokens: int) -> Written:
        ends = self._ends()
        tokens = ids.tolist()
        length = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        text = self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        return Written(
            text=text, prompt_tokens=prompt_tokens, completion_tokens=length, is_cut_off=length == len(tokens)
        )

    def _ends(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return {*ends, self.tokenizer.eos_token_id} - {None}
