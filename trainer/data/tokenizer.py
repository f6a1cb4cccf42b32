"""Trains or loads the tokenizer, and turns batches of texts into flat arrays of token ids.

A byte-level BPE trained on the real training documents has no unknown token and decodes to the very text it was given;
held-out text is kept out of it, because a vocabulary made from the test words lowers the test loss. Text that
happens to spell a special token is encoded as text: a document must not be able to forge its own end. Only the
`tokenizers` library is used; the folder written here is what `transformers.AutoTokenizer` loads.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.base.errors import DataError
from trainer.data.config import TokenizerConfig

END_OF_DOCUMENT = "<|endoftext|>"
_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "added_tokens.json")


@dataclass(frozen=True)
class TokenizerFacts:
    """What the rest of preparation needs to know about a tokenizer in ``folder``."""

    folder: Path
    vocabulary_size: int
    end_of_document: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint16 where every id fits, else uint32."""
        return np.dtype(np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32)


def build_tokenizer(
    config: TokenizerConfig, training_texts: Iterable[list[str]], folder: Path, base: Path
) -> TokenizerFacts:
    """Trains on ``training_texts`` or fetches the pretrained one, and saves it in ``folder``."""
    folder.mkdir(parents=True)
    if config.train_bpe is not None:
        end = config.end_of_document or END_OF_DOCUMENT
        tokenizer = _train(config.train_bpe, training_texts, end)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = dict.fromkeys(("eos_token", "bos_token", "pad_token"), end)
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["clean_up_tokenization_spaces"] = False  # decoding must give the text back, byte for byte
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    else:
        _fetch(str(config.pretrained), folder, base)
        tokenizer = _loaded(folder, str(config.pretrained))
        named = config.end_of_document or end_of_sequence(folder)
        if named is None:
            raise DataError(
                "the tokenizer names no end-of-sequence token",
                got=config.pretrained,
                remedy="Name one in data.tokenizer.end_of_document",
            )
        end = named
    end_id = tokenizer.token_to_id(end)
    if end_id is None:
        remedy = "Name one of its tokens in data.tokenizer.end_of_document"
        raise DataError("the tokenizer has no such end-of-document token", got=end, remedy=remedy)
    # The largest id, not the count: pretrained vocabularies have gaps, and ids above the count would overflow.
    return TokenizerFacts(folder, max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1, end_id)


def _train(size: int, training_texts: Iterable[list[str]], end: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts, trainer=trainer)
    return tokenizer


def _fetch(origin: str, folder: Path, base: Path) -> None:
    local = base / Path(origin).expanduser()
    if local.is_dir():
        if not (local / "tokenizer.json").is_file():
            remedy = "Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
            raise DataError("the tokenizer's folder holds no tokenizer.json", got=origin, remedy=remedy, file=local)
        for name in ("tokenizer.json", *_COMPANIONS):
            if (local / name).is_file():
                shutil.copyfile(local / name, folder / name)
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    for name in ("tokenizer.json", *_COMPANIONS):
        try:
            shutil.copyfile(hf_hub_download(origin, name), folder / name)
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            # A missing companion is normal, a missing or unreachable tokenizer.json is not.
            if name == "tokenizer.json":
                remedy = "Give a folder that holds a tokenizer.json, or an id of the hub that can be reached from here"
                raise DataError("the tokenizer cannot be loaded", got=origin, remedy=remedy) from error
            if not isinstance(error, EntryNotFoundError):
                raise DataError(f"the tokenizer's {name} cannot be loaded", got=origin, remedy="Try again") from error


def _loaded(folder: Path, pretrained: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise DataError(
            "this is not a tokenizer of the `tokenizers` library",
            got=" ".join(str(error).split())[:200],
            remedy="Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(folder)",
            file=Path(pretrained) / "tokenizer.json",
        ) from None
    if not tokenizer.get_vocab_size(with_added_tokens=True):
        raise DataError("the tokenizer has no tokens", got=pretrained, remedy="Give the folder of a whole tokenizer")
    return tokenizer


def end_of_sequence(folder: Path) -> str | None:
    """The end-of-sequence token that a tokenizer's folder names; older ones do it in `special_tokens_map.json` only.

    None where none does. ``DataError`` where a file of it cannot be read.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            token = json.loads(file.read_text(encoding="utf-8")).get("eos_token")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            remedy = "Copy or download the tokenizer again"
            raise DataError(f"the tokenizer's {name} cannot be read", got=str(error), remedy=remedy) from None
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return None


@dataclass(frozen=True)
class Encoder:
    """Encodes texts with the tokenizer in ``folder``; made once in each process that tokenizes."""

    tokenizer: Tokenizer
    end_of_document: int
    dtype: np.dtype[Any]

    @staticmethod
    def load(facts: TokenizerFacts) -> "Encoder":
        """The encoder of a tokenizer, for whole texts: without truncation, padding, or special tokens in the text."""
        tokenizer = Tokenizer.from_file(str(facts.folder / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return Encoder(tokenizer, facts.end_of_document, facts.dtype)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Concatenated ids of the texts, without any separator, and the number of ids of each."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.fromiter((len(encoding) for encoding in encodings), dtype=np.int64, count=len(encodings))
        ids: Iterator[int] = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, dtype=self.dtype, count=int(lengths.sum())), lengths

    def encode_documents(self, texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """As `encode`, with the end-of-document id after each text (counted in its length)."""
        ids, lengths = self.encode(texts)
        return np.insert(ids, np.cumsum(lengths), self.end_of_document), lengths + 1


_process_encoder: dict[str, Encoder] = {}


def start_worker(facts: TokenizerFacts) -> None:
    """Prepares a worker process: one tokenizer, without threads of its own, which would compete
    with the other workers.
    """
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _process_encoder["encoder"] = Encoder.load(facts)


def encode_in_worker(texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Encodes in a worker process."""
    return _process_encoder["encoder"].encode_documents(texts)
