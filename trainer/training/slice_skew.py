"""Slices of the drawn samples compared with those of the real data: journaled at each evaluation, warned of once."""

from dataclasses import replace

from trainer.mixture import lookups
from trainer.tracking.figures import SliceDrawn
from trainer.tracking.schema import SkewLine
from trainer.training.run import Run, RunState
from trainer.training.slice_composition import Composition, composition


def drawn_slices(run: Run) -> Composition | None:
    """Slices of what was drawn up to now, from retired segments too, against those of the real segments that have
    joined; None where they are not known.
    """
    if not run.data.slice_tokens:
        return None
    epochs = lookups.segment_epochs(run.data.plan, run.data.stream.state)
    kinds = dict(zip(run.data.plan.sources, run.data.plan.kinds, strict=True))
    real = frozenset((source, segment) for source, segment in epochs if kinds[source] == "real")
    return composition(run.data.slice_tokens, epochs, real)


def slices_drawn(drawn: Composition | None) -> dict[str, SliceDrawn]:
    """What the line of an evaluation says of it, by slice."""
    slices = {} if drawn is None else drawn.slices
    return {name: SliceDrawn(real=part.real, drawn=part.drawn) for name, part in slices.items()}


def warned_of_skew(run: Run, state: RunState, drawn: Composition | None) -> RunState:
    """Warn of each slice once, when what was drawn has become far from the real data in it."""
    factor = run.settings.evaluation.slice_skew
    slices = {} if drawn is None else drawn.slices
    skewed = {name: part for name, part in slices.items() if part.is_skewed(factor)}
    for name, part in skewed.items():
        if name not in state.skewed:
            run.io.journal.write(SkewLine(step=state.step, slice=name, real=part.real, drawn=part.drawn))
            run.io.warn(
                f"step {state.step}: slice {name} is {part.drawn:.1%} of what was drawn, {part.real:.1%} of the real"
                " data (evaluation.slice_skew); a source without it, or full of it, has too large a share"
            )
    return replace(state, skewed=tuple(dict.fromkeys([*state.skewed, *skewed])))
