"""The gate: looks at all rows of a shard that passed, and lets them join or quarantines them together."""

from collections.abc import Sequence

from trainer.synthesis.context import RoundContext
from trainer.synthesis.diversity import Diversity, compared
from trainer.synthesis.gate_config import GateConfig
from trainer.synthesis.gate_record import GateRecord
from trainer.synthesis.memorization import Asymmetry, asymmetry
from trainer.synthesis.rows import Row


def pass_gate(rows: Sequence[Row], context: RoundContext) -> GateRecord | None:
    """What the gate measures; None where the recipe has none, or where the rows are too few to judge."""
    limits = context.config.gate
    if limits is None or len(rows) < limits.fewest_rows:
        return None
    prompts = [*context.prompt_rows, *context.set_aside]
    texts = [row["text"] for row in rows]
    diversity, real = compared(
        texts, [row.document.text for row in prompts], most=limits.rows, seed=context.seed + context.shard.generation
    )
    made_of = {row["source_id"] for row in rows}
    others = [row.document.text for row in prompts if row.document.id not in made_of]
    memorization = asymmetry(texts[: limits.rows], others, context.held_out_texts, seed=context.seed)
    failed = tuple(failed_limits(limits, diversity, real, memorization))
    return GateRecord(rows=len(rows), diversity=diversity, real=real, memorization=memorization, failed=failed)


def quarantine_reason(record: GateRecord | None) -> str | None:
    """Why the rows must not be trained on; None where they may."""
    return None if record is None or not record.failed else "; ".join(record.failed)


def failed_limits(
    limits: GateConfig, found: Diversity, real: Diversity | None, memorization: Asymmetry | None
) -> list[str]:
    """The limits that a round does not keep, in words."""
    failed = []
    if found.self_bleu > limits.max_self_bleu:
        failed.append(f"self-BLEU {found.self_bleu:.2f} is above {limits.max_self_bleu:g}")
    for what, least, of_round, of_real in (
        ("distinct 3-grams", limits.min_distinct_of_real, found.distinct, real and real.distinct),
        ("the Vendi score", limits.min_vendi_of_real, found.vendi, real and real.vendi),
        (
            "the coverage of rare words",
            limits.min_tail_coverage_of_real,
            found.tail_coverage,
            real and real.tail_coverage,
        ),
    ):
        if of_round is not None and of_real and of_round < least * of_real:
            failed.append(f"{what}: {of_round / of_real:.2f} of real text's, under {least:g}")
    if memorization is not None and memorization.low > limits.max_nearer_training:
        interval = f"[{memorization.low:.2f}, {memorization.high:.2f}]"
        failed.append(
            f"{memorization.nearer_training:.2f} {interval} of the rows are nearer to training than to held-out "
            f"documents, above {limits.max_nearer_training:g}"
        )
    return failed
