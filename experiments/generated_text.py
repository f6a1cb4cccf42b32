"""Text that models write: sampled from the end of a document alone, kept in files, and measured against real text."""

# S streams, L tokens of a stream, B blocks, T tokens of a block

import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from trainer.base.records import FloatArray, IntArray
from trainer.model.loss import token_losses

TAILS = (0.1, 0.9)  # quantiles of the loss of real text, beyond which a block is in a tail


def streams(
    model: PreTrainedModel, end_of_document: int, *, num_streams: int, num_tokens: int, temperature: float, seed: int
) -> IntArray:
    """Token ids [S, L] that the model continues with after the end of a document, across the ends that it sets itself.

    A window that is full continues from its later half, so a document may be longer than what the model sees.
    """
    window = model.config.max_position_embeddings
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "use_cache": True}
    # In place of the model's own, which stops at the end of a document, and fills what another leaves open.
    model.generation_config = GenerationConfig(**sampling, eos_token_id=None, pad_token_id=end_of_document)
    token_ids = torch.full((num_streams, 1), end_of_document)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        while token_ids.shape[1] <= num_tokens:
            context = token_ids[:, -(window // 2) :]
            longer = model.generate(
                context, attention_mask=torch.ones_like(context), max_new_tokens=window - context.shape[1]
            )
            token_ids = torch.cat([token_ids, longer[:, context.shape[1] :]], dim=1)
    return token_ids[:, 1 : num_tokens + 1].numpy()


def documents(streams_SL: IntArray, end_of_document: int, decode: Callable[[IntArray], str]) -> Iterator[str]:
    """The texts between the ends of documents; the last one of a stream ends where the stream does.

    Bytes that are no text, and NUL, which preparation refuses, are left out, and so are documents without words.
    """
    for stream in streams_SL:
        for ids in np.split(stream, np.flatnonzero(stream == end_of_document) + 1):
            text = decode(ids[ids != end_of_document]).replace("\ufffd", "").replace("\0", "")
            if text.strip():
                yield text


def write(file: Path, texts: Iterable[str], provenance: Mapping[str, Any]) -> None:
    """A row for each text; the file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    with lzma.open(part, "wt", encoding="utf-8") as rows:
        rows.writelines(json.dumps({"text": text, **provenance}) + "\n" for text in texts)
    part.rename(file)


def read(file: Path) -> list[str]:
    """The texts of a file."""
    with lzma.open(file, "rt", encoding="utf-8") as rows:
        return [json.loads(row)["text"] for row in rows]


def distinct(texts: Iterable[str], *, num_words: int, num_grams: int) -> float:
    """Different n-grams of words, as a part of the first ``num_grams`` (Li 2016, distinct-n)."""
    split = (text.split() for text in texts)
    grams = (gram for words in split for gram in zip(*(words[i:] for i in range(num_words)), strict=False))
    first = list(islice(grams, num_grams))
    return len(set(first)) / len(first)


def tails(nats_B: FloatArray, real_nats_B: FloatArray) -> dict[str, float]:
    """Share of blocks with less loss than the easiest tenth of real text, and with more than the hardest."""
    low, high = np.quantile(real_nats_B, TAILS)
    return {"easy": float((nats_B < low).mean()), "hard": float((nats_B > high).mean())}


def block_nats(model: PreTrainedModel, ids_BT: IntArray) -> FloatArray:
    """Loss of each block in nats per token [B]."""
    valid = torch.full((64,), ids_BT.shape[1])
    losses = []
    with torch.inference_mode():
        for ids in torch.from_numpy(ids_BT.astype(np.int64)).split(len(valid)):
            losses.append(token_losses(model(input_ids=ids).logits, ids, valid[: len(ids)]).mean(1))
    return torch.cat(losses).double().numpy()
