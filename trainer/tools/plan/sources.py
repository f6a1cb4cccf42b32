"""What each source gives to a run: samples, epochs, and the value of its tokens after repeats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from trainer.base.errors import UserError
from trainer.base.records import SHARE_ONE
from trainer.control.policies import AnnealConfig, ScheduleConfig, anneal
from trainer.control.priced.repeats import effective_tokens
from trainer.data.find import is_indexed, local_files
from trainer.data.source_config import JoinConfig, SourceConfig
from trainer.data.store import PreparedData
from trainer.recipe import LoadedRecipe, Recipe

BYTES_PER_TOKEN = 4.0  # of English text and a vocabulary of tens of thousands
_COMPRESSION = {".gz": 3.0, ".xz": 4.0, ".zst": 3.5, ".parquet": 2.5}  # text bytes per byte of file


@dataclass(frozen=True, kw_only=True)
class SourcePlan:
    """What a source gives. ``known_by`` is prepared, stated, estimate or unknown; epochs, and the different tokens that
    would do as much as its repeated ones, are None where the size is unknown. Epochs are the most that the segments
    drawn at a time come to, ``cap_step`` is about where they reach ``max_epochs``.
    """

    name: str
    kind: str
    mean_share: float
    samples: int
    tokens: int
    available_samples: int | None
    known_by: str
    epochs: float | None
    effective_tokens: float | None
    max_epochs: float | None
    cap_step: int | None


def mean_shares(recipe: Recipe) -> dict[str, float]:
    """The share of each source over the whole run: of the curve if there is one, else the share at the start."""
    start = {name: millionths / SHARE_ONE for name, millionths in recipe.mixture.shares_in_millionths().items()}
    policy = recipe.control.policy
    if isinstance(policy, AnnealConfig):
        return anneal.mean_shares(policy, start, {name: source.kind for name, source in recipe.data.sources.items()})
    if not isinstance(policy, ScheduleConfig):
        return start
    curve = [(0.0, start), *((point.at, point.shares) for point in policy.points)]
    curve.append((1.0, curve[-1][1]))
    return {
        name: sum(
            (later - earlier) * (left[name] + right[name]) / 2 for (earlier, left), (later, right) in pairwise(curve)
        )
        for name in start
    }


def source_plans(
    loaded: LoadedRecipe, source_tokens: Mapping[str, float], data: PreparedData | None
) -> tuple[SourcePlan, ...]:
    """What each source gives, in recipe order; ``source_tokens`` states the size of those not prepared here."""
    recipe = loaded.recipe
    for name in source_tokens:
        if name not in recipe.data.sources:
            names = ", ".join(recipe.data.sources)
            raise UserError("--source-tokens does not name a source", got=name, remedy=f"The sources are {names}")
    prepared = {} if data is None else data.segments
    length, total = recipe.data.sequence_length, recipe.training.steps * recipe.mixture.global_batch
    plans = []
    for name, share in mean_shares(recipe).items():
        source = recipe.data.sources[name]
        sizes: Sequence[float] | None
        if name in source_tokens:  # of all segments together, whose parts are not stated
            sizes, known_by = _evenly(int(source_tokens[name] // length), len(source.segments)), "stated"
        elif name in prepared:
            sizes, known_by = [segment.num_samples for segment in prepared[name]], "prepared"
        else:
            sizes, known_by = _estimated_samples(source, loaded.folder, length)
        available = None if sizes is None else round(sum(sizes))
        samples = round(share * total)
        spans = _spans(source.joins, sizes, samples, recipe.training.steps) if sizes and available else []
        most = recipe.mixture.max_epochs.get(name)
        plans.append(
            SourcePlan(
                name=name,
                kind=source.kind if data is None else data.sources[name].kind,
                mean_share=share,
                samples=samples,
                tokens=samples * length,
                available_samples=available,
                known_by=known_by,
                epochs=max((span.after for span in spans), default=None),
                effective_tokens=_effective_samples(spans, sizes) * length if sizes and spans else None,
                max_epochs=most,
                cap_step=None
                if most is None
                else next((span.step_of(most) for span in spans if span.after > most), None),
            )
        )
    return tuple(plans)


def _evenly(total: int, parts: int) -> list[float]:
    return [total / parts] * parts


@dataclass(frozen=True, kw_only=True)
class _Span:
    """Steps between two joins of a source: what was drawn of its segments by their end, and the epochs that those drawn
    in them come to, before and after.
    """

    first_step: int
    steps: int
    drawn: tuple[float, ...]
    before: float
    after: float

    def step_of(self, epochs: float) -> int:
        """About where so many epochs are reached."""
        part = max(0.0, epochs - self.before) / (self.after - self.before)
        return self.first_step - 1 + int(self.steps * part)


def _spans(joins: Sequence[JoinConfig], sizes: Sequence[float], samples: int, num_steps: int) -> list[_Span]:
    """The spans of a source that gives ``samples`` at an even share, its live segments in proportion to their sizes."""
    spans, drawn, first = list[_Span](), [0.0] * len(sizes), 0
    edges = [1, *(join.from_step for join in joins), num_steps + 1]
    for number, (start, end) in enumerate(pairwise(edges)):
        if number and joins[number - 1].retires:
            first = number
        size, more = sum(sizes[first : number + 1]), samples * (end - start) / num_steps
        before = sum(drawn[first:]) / size
        for segment in range(first, number + 1):
            drawn[segment] += more * sizes[segment] / size
        after = sum(drawn[first:]) / size
        spans.append(_Span(first_step=start, steps=end - start, drawn=tuple(drawn), before=before, after=after))
    return spans


def _effective_samples(spans: Sequence[_Span], sizes: Sequence[float]) -> float:
    return sum(effective_tokens(size, drawn) for size, drawn in zip(sizes, spans[-1].drawn, strict=True))


def _estimated_samples(source: SourceConfig, folder: Path, sequence_length: int) -> tuple[list[int] | None, str]:
    """Of each segment, from the size of the files; None where there are none."""
    sizes = [_estimated(segment, folder, sequence_length) for segment in source.segments]
    counted = [size for size in sizes if size is not None]
    return (counted, "estimate") if len(counted) == len(sizes) else (None, "unknown")


def _estimated(source: SourceConfig, folder: Path, sequence_length: int) -> int | None:
    """From the size of the files; None where there are none. Other columns are counted as if they were text."""
    if is_indexed(source):
        return None
    try:
        files = local_files(source, folder)
    except UserError:
        return None
    text_bytes = sum(
        path.stat().st_size * _COMPRESSION.get(path.suffix.lower(), 1.0) for path in (Path(file.path) for file in files)
    )
    sampled = len(source.sample.buckets) / source.sample.of if source.sample else 1.0
    return max(1, int(text_bytes * sampled / BYTES_PER_TOKEN / sequence_length))


def stated_tokens(stated: list[str]) -> dict[str, float]:
    """`SOURCE=N`, where N may be written as 5e11."""
    tokens = {}
    for text in stated:
        name, _, number = text.partition("=")
        try:
            tokens[name] = float(number)
        except ValueError:
            tokens[name] = math.nan
        if not 0 < tokens[name] < math.inf:
            raise UserError(
                "--source-tokens is not of the form SOURCE=N, N a number above 0",
                got=text,
                remedy="For example: wikipedia=5e9",
            )
    return tokens
