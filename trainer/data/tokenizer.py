"""Trains or loads the tokenizer, and turns batches of texts into flat arrays of token ids.

A byte-level BPE trained on the real training documents has no unknown token and decodes to the very text it was given;
held-out text is kept out of it, because a vocabulary made from the test words lowers the test loss. Text that
happens to spell a special token is encoded as text, unless its source asks for the token: a document must not be able
to forge its own end. Only the `tokenizers` library is used; the folder written here is what
`transformers.AutoTokenizer` loads.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from trainer.base.errors import DataError
from trainer.data.config import TokenizerConfig
from trainer.data.tokenizer_template import named_token, template_prefix

END_OF_DOCUMENT = "<|endoftext|>"
_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "added_tokens.json")


@dataclass(frozen=True)
class TokenizerFacts:
    """What the rest of preparation needs to know about a tokenizer in ``folder``."""

    folder: Path
    vocabulary_size: int
    end_of_document: int
    begin_of_document: int | None = None  # before every document; None where nothing is, or the end of the one before
    template: str | None = None  # what the tokenizer puts before a text by itself

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
        begin = end if config.begin_of_document in ("auto", "none") else config.begin_of_document
        tokenizer = _train(config.train_bpe, training_texts, list(dict.fromkeys((end, begin))))
        settings: dict[str, Any] = {"eos_token": end, "bos_token": begin, "pad_token": end}
        if begin != end:
            own = [(begin, tokenizer.token_to_id(begin))]
            tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=own)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        settings["clean_up_tokenization_spaces"] = False  # decoding must give the text back, byte for byte
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    else:
        _fetch(str(config.pretrained), folder, base)
        tokenizer = _loaded(folder, str(config.pretrained))
        named = config.end_of_document or named_token(folder, "eos_token")
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
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    begin_id, template = _begin_of_document(config, tokenizer, end_id)
    return TokenizerFacts(folder, size, end_id, begin_id, template)


def _begin_of_document(config: TokenizerConfig, tokenizer: Tokenizer, end_id: int) -> tuple[int | None, str | None]:
    """The id before every document, and the tokenizer's own token there. ``DataError`` for a token that it lacks."""
    prefix = template_prefix(tokenizer)
    own = [str(tokenizer.id_to_token(number)) for number in prefix if number != end_id]
    asked = config.begin_of_document
    if asked == "auto" and len(prefix) > 1:
        remedy = "Name one of them in data.tokenizer.begin_of_document, or write none"
        raise DataError(f"the tokenizer puts {len(prefix)} tokens before a text", got=" ".join(own), remedy=remedy)
    begin_id = (prefix or (None,))[0] if asked == "auto" else None if asked == "none" else tokenizer.token_to_id(asked)
    if begin_id is None and asked not in ("auto", "none"):
        remedy = "Name one of its tokens in data.tokenizer.begin_of_document, or write auto or none"
        raise DataError("the tokenizer has no such begin-of-document token", got=asked, remedy=remedy)
    return None if begin_id == end_id else begin_id, " ".join(own) or None


def _train(size: int, training_texts: Iterable[list[str]], special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special_tokens,
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


@dataclass(frozen=True)
class Encoder:
    """Encodes texts with the tokenizer in ``folder``; made once in each process that tokenizes.

    ``literal`` takes the spelling of a special token as text, ``parsing`` as the token. Which of the two is a property
    of the object that neither its file nor a pickle keeps, so both are made anew from the file.
    """

    literal: Tokenizer
    parsing: Tokenizer
    end_of_document: int
    begin_of_document: int | None
    dtype: np.dtype[Any]

    @staticmethod
    def load(facts: TokenizerFacts) -> "Encoder":
        """The encoder of a tokenizer, for whole texts: without truncation, padding or template."""
        literal, parsing = (_whole_texts(facts.folder, parse=parse) for parse in (False, True))
        return Encoder(literal, parsing, facts.end_of_document, facts.begin_of_document, facts.dtype)

    def encode(self, texts: Sequence[str], *, parse: bool = False) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Concatenated ids of the texts, without any separator, and the number of ids of each."""
        tokenizer = self.parsing if parse else self.literal
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.fromiter((len(encoding) for encoding in encodings), dtype=np.int64, count=len(encodings))
        ids: Iterator[int] = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, dtype=self.dtype, count=int(lengths.sum())), lengths

    def encode_documents(self, texts: Sequence[str], *, parse: bool = False) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """As `encode`, with the begin-of-document id, if there is one, before and the end-of-document id after each
        text, counted in its length. A text without tokens has none of them.
        """
        ids, lengths = self.encode(texts, parse=parse)
        is_text = lengths > 0
        ends = np.cumsum(lengths[is_text])
        if self.begin_of_document is None:
            return np.insert(ids, ends, self.end_of_document), lengths + is_text
        places = np.stack([ends - lengths[is_text], ends], axis=1).ravel()
        marks = np.tile([self.begin_of_document, self.end_of_document], len(ends))
        return np.insert(ids, places, marks), lengths + 2 * is_text

    def decode(self, ids: NDArray[Any], lengths: NDArray[np.int64]) -> list[str]:
        """The texts that the ids of ``encode`` stand for, special tokens spelled out."""
        pieces = np.split(ids, np.cumsum(lengths)[:-1])
        return [
            str(text) for text in self.literal.decode_batch([p.tolist() for p in pieces], skip_special_tokens=False)
        ]


def _whole_texts(folder: Path, *, parse: bool) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = not parse
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def spelling_of(folder: Path) -> re.Pattern[str] | None:
    """What finds the special tokens of a tokenizer in a text; None where it has none."""
    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder().values()
    special = sorted((token.content for token in added if token.special and token.content), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, special))) if special else None


_process_encoder: dict[str, Encoder] = {}


def start_worker(facts: TokenizerFacts) -> None:
    """Prepares a worker process: one tokenizer, without threads of its own, which would compete
    with the other workers.
    """
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _process_encoder["encoder"] = Encoder.load(facts)


def encode_in_worker(texts: list[str], *, parse: bool) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Encodes in a worker process."""
    return _process_encoder["encoder"].encode_documents(texts, parse=parse)
