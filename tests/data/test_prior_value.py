"""The value of a source before the run: counts are those of a plain counter, and sources rank as they were made."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from trainer.data.prior_value import PriorValue, RealText, prior_value
from trainer.data.prior_value.counts import ORDERS, Counts, HeldOutText, joined, nats, nats_together
from trainer.data.prior_value.record import value_warnings
from trainer.data.prior_value.rule import shuffled_words

NUM_IDS = 150


class Language:
    """Documents of a made-up language: after each pair of tokens a few others are likely."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.followers = rng.choice(NUM_IDS, size=(NUM_IDS, 7, 4), p=rng.dirichlet(np.full(NUM_IDS, 0.2)))

    def documents(self, num: int, seed: int, length: int = 80) -> list[np.ndarray]:
        """``num`` documents of ``length`` tokens."""
        rng = np.random.default_rng(seed)
        out = np.zeros((num, length), dtype=np.uint16)
        out[:, 0] = rng.integers(NUM_IDS, size=num)
        for place in range(1, length):
            before = out[:, place - 2] % 7 if place > 1 else 0
            out[:, place] = self.followers[out[:, place - 1], before, rng.integers(4, size=num)]
        return list(out)


@pytest.fixture(scope="module")
def language() -> Language:
    """The language of the real text."""
    return Language(1)


@pytest.fixture(scope="module")
def real_text(language: Language) -> RealText:
    """Twenty thousand tokens of it, with a validation part."""
    return RealText(language.documents(250, seed=2), language.documents(120, seed=3), seed=5)


def test_looks_are_the_counts_of_a_plain_counter_and_no_ngram_reaches_from_one_document_into_the_next() -> None:
    rng = np.random.default_rng(0)
    held_out = [rng.integers(6, size=size) for size in (1, 2, 9, 30)]
    text = [rng.integers(8, size=size) for size in (0, 1, 3, 400, 200)]
    counts = Counts(HeldOutText(held_out, num_ids=8)).add(text[:3]).add(text[3:])
    looks, position = counts.looks(), 0
    boundary = [-1] * (ORDERS - 1)
    grams = [
        Counter(
            tuple(padded[place - order : place + 1])
            for padded in ([*boundary, *document.tolist()] for document in text)
            for place in range(ORDERS - 1, len(padded))
        )
        for order in range(ORDERS)
    ]
    for document in held_out:
        padded = [*boundary, *document.tolist()]
        for place in range(ORDERS - 1, len(padded)):
            for order in range(ORDERS):
                context = tuple(padded[place - order : place])
                after = {gram: count for gram, count in grams[order].items() if gram[:-1] == context}
                expected = [after.get((*context, padded[place]), 0), sum(after.values()), len(after)]
                assert looks[order, :, position].tolist() == expected
            position += 1


def test_the_probabilities_of_all_tokens_after_a_context_sum_to_one() -> None:
    rng = np.random.default_rng(1)
    context = rng.integers(20, size=3)
    held_out = HeldOutText([np.append(context, token) for token in range(20)], num_ids=20)
    texts = [[np.concatenate([context, rng.integers(20, size=30), context, [3]])] * 2, [rng.integers(20, size=500)]]
    first, second = (Counts(held_out).add(text) for text in texts)
    losses = nats_together(first.looks(), second.looks(), second.shared_with(first), 0.35, 20)
    assert np.exp(-losses[3::4]).sum() == pytest.approx(1, abs=1e-5)


def test_at_weight_one_two_parts_of_a_text_are_the_whole_text(language: Language) -> None:
    held_out = HeldOutText(language.documents(20, seed=3), NUM_IDS)
    first, second = language.documents(30, seed=2), language.documents(40, seed=4)
    base, added = Counts(held_out).add(first), Counts(held_out).add(second)
    whole = nats(Counts(held_out).add([*first, *second]).looks(), NUM_IDS)
    together = nats_together(base.looks(), added.looks(), added.shared_with(base), 1.0, NUM_IDS)
    assert together == pytest.approx(whole, abs=1e-5)


def test_sources_rank_by_what_they_were_made_to_be_worth(language: Language, real_text: RealText) -> None:
    fresh = language.documents(250, seed=9)
    noise = np.random.default_rng(4)
    spoiled = [np.where(noise.random(len(doc)) < 0.3, noise.integers(NUM_IDS, size=len(doc)), doc) for doc in fresh]
    shuffled = [noise.permutation(doc) for doc in fresh]
    template = [fresh[0]] * 250
    values = [real_text.value_of(source) for source in (fresh, spoiled, shuffled, template)]
    means = [value.mean for value in values if value is not None]
    assert means == sorted(means, reverse=True)
    assert len(means) == 4
    assert means[0] > 0.7
    assert means[1] < 0.7
    assert means[3] < 0.1
    contrasts = [value.order_contrast for value in values if value is not None]
    assert contrasts[0] is not None
    assert contrasts[0] > 0.7
    assert contrasts[2] is not None
    assert contrasts[2] < 0.1


def test_a_copy_of_the_real_text_is_worth_nothing_and_one_that_holds_the_validation_documents_is_told(
    language: Language, real_text: RealText
) -> None:
    # what the base half already has teaches little more, and what it has not is its other half
    copy = real_text.value_of(language.documents(250, seed=2))
    leak = real_text.value_of([*language.documents(120, seed=3), *language.documents(130, seed=10)])
    fresh = real_text.value_of(language.documents(250, seed=9))
    assert copy is not None
    assert leak is not None
    assert fresh is not None
    assert copy.mean < fresh.mean - 0.2
    assert leak.may_leak
    assert leak.mean == 1.0
    assert leak.measured > 1
    assert not fresh.may_leak
    assert any("may hold the validation documents" in warning for warning in value_warnings({"made": leak}))


def test_nothing_is_said_of_too_little_text(language: Language, real_text: RealText) -> None:
    fresh = language.documents(250, seed=9)
    assert real_text.value_of(fresh[:3]) is None
    assert prior_value(fresh[:10], fresh, language.documents(120, seed=3), seed=1) is None


def test_the_same_seed_gives_the_same_value_and_json_keeps_it(language: Language) -> None:
    real, source, validation = (language.documents(100, seed=seed) for seed in (2, 9, 3))
    first, second, other = (prior_value(real, source, validation, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first is not None
    assert other is not None
    assert first.measured != other.measured
    assert PriorValue.from_json(first.to_json()) == first
    # ids that real text has not are all alike, whatever the vocabulary
    far = [np.where(doc == doc[5], 250_000, doc) for doc in source]
    assert prior_value(real, far, validation, seed=1) is not None


def test_words_are_shuffled_whole() -> None:
    starts = np.array([False, True, True, False])  # tokens 1 and 2 begin words
    document = np.array([3, 0, 1, 3, 3, 2, 0, 2, 1, 0, 0])
    words = {(3, 0), (1, 3, 3), (2, 0), (2,), (1, 0, 0)}
    for seed in range(5):
        shuffled = shuffled_words(document, starts, np.random.default_rng(seed)).tolist()
        assert sorted(shuffled) == sorted(document.tolist())
        text = " ".join(map(str, shuffled))
        assert all(" ".join(map(str, word)) in text for word in words)


def test_documents_are_joined_with_a_boundary_before_each() -> None:
    stream, places = joined([np.array([1, 2]), np.array([], dtype=int), np.array([3])], boundary=9)
    assert stream.tolist() == [9, 9, 9, 1, 2, 9, 9, 9, 9, 9, 9, 3]
    assert places.tolist() == [3, 4, 11]


def test_warnings_name_the_source_and_what_is_wrong() -> None:
    fine = PriorValue(
        mean=0.6, error=0.1, measured=0.6, weight=0.5, order_contrast=0.8,
        real_tokens=1, source_tokens=1, validation_tokens=1,
    )  # fmt: skip
    values = {
        "fine": fine,
        "mixed_up": replace(fine, order_contrast=0.05),
        "unknown": replace(fine, order_contrast=None),
    }
    (warning,) = value_warnings(values)
    assert "the word order of `mixed_up` teaches nothing" in warning
