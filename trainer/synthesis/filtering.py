"""The stages that look at texts: what is broken, held out, in the pool already, or dropped by the recipe's filters."""

from collections.abc import Sequence

from trainer.data.documents import BATCH_DOCUMENTS, defect_of
from trainer.data.filters import FilterChain, name_of
from trainer.data.filters.duplicates import words_hash
from trainer.data.filters.near_duplicates import NearDuplicates
from trainer.synthesis.context import RoundContext
from trainer.synthesis.funnel import Funnel, Reason
from trainer.synthesis.rows import Row

_NOT_WRITTEN = {
    "too_long": "prompt and max_new_tokens do not fit into the model's context",
    "error": "the call failed at every try",
    "refused": "the server or its model refused the request",
}


def drop_defects(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops what the generator did not write, cut off, or wrote so that preparation would not take it."""
    return funnel.keep(rows, lambda row: _defect(row, keep_cut_off=context.config.keep_cut_off))


def _defect(row: Row, *, keep_cut_off: bool) -> Reason | None:
    if reason := _NOT_WRITTEN.get(row["finish_reason"]):
        return "generator", reason
    if row["finish_reason"] == "unusable":
        return "generator", row["error"]
    if not row["text"].strip():
        return "generator", "empty text"
    if defect := defect_of(row["text"]):
        return "generator", defect
    if row["finish_reason"] == "length" and not keep_cut_off:
        return "generator", "cut off at max_new_tokens"
    return None


def drop_held_out(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops rows that repeat a held-out document: none ever joins."""
    held_out: set[str] = set()
    for start in range(0, len(rows), BATCH_DOCUMENTS):  # the index takes no batch of any size
        batch = rows[start : start + BATCH_DOCUMENTS]
        copies = context.held_out.match([row["text"] for row in batch]).copies
        held_out |= {batch[match.document]["id"] for match in copies}
    reason = "contamination", "the words of a held-out document"
    return funnel.keep(rows, lambda row: reason if row["id"] in held_out else None)


def drop_repeats(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops rows with the words of an earlier row of the round or of the pool."""
    hashes = {words_hash(text) for text in context.pool.texts(before=context.shard.generation)}

    def repeated(row: Row) -> Reason | None:
        words = words_hash(row["text"])
        if words in hashes:
            return "duplicate", "same words as an earlier row"
        hashes.add(words)
        return None

    return funnel.keep(rows, repeated)


def drop_near_repeats(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops rows that are nearly the same as an earlier row, one of the pool, or a real training document."""
    rule, real = context.config.near_duplicates, context.real
    if rule is None:
        return list(rows)
    seen = NearDuplicates(rule.threshold)
    for text in context.pool.texts(before=context.shard.generation) if "pool" in rule.against else ():
        seen.add(text)
    earlier = NearDuplicates(rule.threshold)

    def repeated(row: Row) -> Reason | None:
        if real.near is not None and real.near.has(row["text"]):
            return "near_duplicate", "nearly a real training document"
        if seen.has(row["text"]):
            return "near_duplicate", "nearly a row of the pool"
        if "round" in rule.against and not earlier.add(row["text"]):
            return "near_duplicate", "nearly an earlier row of the round"
        return None

    return funnel.keep(rows, repeated)


def drop_memorized(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops rows that repeat real training text word for word."""
    rule, verbatim = context.config.memorized, context.real.verbatim
    if rule is None or verbatim is None:
        return list(rows)
    shares = dict(zip((row["id"] for row in rows), verbatim.shares([row["text"] for row in rows]), strict=True))
    reason = "memorized", f"more than {rule.max_share:g} of its sequences of {rule.words} words are real training text"
    return funnel.keep(rows, lambda row: reason if shares[row["id"]] > rule.max_share else None)


def drop_filtered(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """Drops what the recipe's filters drop; the others name the filters that they passed."""
    chain, names = FilterChain(context.config.filters), [name_of(config) for config in context.config.filters]
    kept = funnel.keep(rows, lambda row: chain.dropped_by(row["text"], row, funnel.note))
    return [{**row, "filters": [*row["filters"], *names]} for row in kept]
