"""From texts to documents that can be scored: a small vocabulary of the references' own, and windows of one length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from trainer.base.records import FloatArray, IntArray
from trainer.data.machine_text.count import Labeled, score

VOCABULARY = 1024
WINDOW_TOKENS, FEWEST_TOKENS = 192, 48
WINDOW_CHARACTERS = 16 * WINDOW_TOKENS  # of a text, more than a window has
_VOCABULARY_CHARACTERS = 2_000_000  # of each reference, to make the vocabulary of


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """The documents of a text that are long enough: their places, mean scores, and the part of folds with a hit."""

    places: IntArray
    scores: FloatArray
    hits: FloatArray


def score_texts(
    real: Sequence[str], machine: Sequence[str], texts: Mapping[str, Sequence[str]], *, seed: int
) -> tuple[Labeled, dict[str, ScoredText]]:
    """Scores texts by two references. Only the first ``WINDOW_TOKENS`` tokens of a document count, and none of fewer
    than ``FEWEST_TOKENS`` does: hits are as frequent as among labeled documents only at about their length.
    """
    tokenizer = _vocabulary(real, machine)
    windows = {name: _windows(tokenizer, text) for name, text in texts.items()}
    labeled, scored = score(
        _windows(tokenizer, real)[1],
        _windows(tokenizer, machine)[1],
        {name: documents for name, (_, documents) in windows.items()},
        num_ids=tokenizer.get_vocab_size(),
        seed=seed,
    )
    return labeled, {
        name: ScoredText(places=windows[name][0], scores=text.scores, hits=text.hits) for name, text in scored.items()
    }


def _vocabulary(*references: Sequence[str]) -> Tokenizer:
    """Byte-level BPE, of as much of each reference: neither side's words are the finer cut ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    budget = min(_VOCABULARY_CHARACTERS, *(sum(map(len, _begun(texts))) for texts in references))
    tokenizer.train_from_iterator((text for texts in references for text in _up_to(budget, _begun(texts))), trainer)
    return tokenizer


def _begun(texts: Sequence[str]) -> list[str]:
    return [text[:WINDOW_CHARACTERS] for text in texts]


def _up_to(budget: int, texts: Sequence[str]) -> list[str]:
    ends = np.cumsum([len(text) for text in texts])
    return list(texts[: int(np.searchsorted(ends, budget)) + 1])


def _windows(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[IntArray, list[IntArray]]:
    encoded = [np.array(each.ids[:WINDOW_TOKENS], dtype=np.int64) for each in tokenizer.encode_batch(_begun(texts))]
    places = np.array([place for place, ids in enumerate(encoded) if len(ids) >= FEWEST_TOKENS], dtype=np.int64)
    return places, [encoded[place] for place in places]
