"""What a round's rows go through between generation and the pool.

A stage is a function of the rows that came so far, of what the round knows, and of the funnel, which counts what is
dropped with its reason. Cheap stages come first: no grader is paid for a text that cannot join. The gate then looks at
all rows that are left: they join the pool, or are quarantined there together.
"""

from collections.abc import Callable, Sequence

from trainer.synthesis.context import RoundContext
from trainer.synthesis.filtering import (
    drop_defects,
    drop_filtered,
    drop_held_out,
    drop_memorized,
    drop_near_repeats,
    drop_repeats,
)
from trainer.synthesis.funnel import Funnel
from trainer.synthesis.grading import grade
from trainer.synthesis.paths import drop_same_paths
from trainer.synthesis.rows import Row

Stage = Callable[[Sequence[Row], RoundContext, Funnel], list[Row]]
STAGES: tuple[Stage, ...] = (
    drop_defects,
    drop_held_out,
    drop_repeats,
    drop_near_repeats,
    drop_memorized,
    grade,
    drop_same_paths,
    drop_filtered,
)


def through_stages(rows: Sequence[Row], context: RoundContext, funnel: Funnel) -> list[Row]:
    """The rows that no stage drops, with what the stages found out about them."""
    passed = list(rows)
    for stage in STAGES:
        passed = stage(passed, context, funnel)
    return passed
