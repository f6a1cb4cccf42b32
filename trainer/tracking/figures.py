"""Values that stand inside the lines of the journal: the data of a source, held-out figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Annotated

from trainer.base.json_values import number
from trainer.base.records import SHARE_ONE, Kind
from trainer.tracking.record import About

Shares = Mapping[str, int]  # by source, in millionths


def in_ones(shares: Shares) -> dict[str, float]:
    """Shares as parts of one."""
    return {source: share / SHARE_ONE for source, share in shares.items()}


def _parts(counts: Mapping[str, int]) -> dict[str, float]:
    drawn = max(1, sum(counts.values()))
    return {source: count / drawn for source, count in counts.items()}


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """The data of one source."""

    kind: Annotated[Kind, About("real or synthetic")]
    license: Annotated[str | None, About("license; null where it was not given")] = None
    num_samples: Annotated[int, About("samples in all its segments")]
    num_tokens: Annotated[int | None, About("tokens in all its segments; null where samples are not of text")] = None
    num_documents: Annotated[int | None, About("documents in all its segments")] = None


@dataclass(frozen=True, kw_only=True)
class SliceLoss:
    """Held-out loss of one slice."""

    nats_per_token: Annotated[float, About("mean loss", "nats per token")]
    bits_per_byte: Annotated[float | None, About("mean loss", "bits per UTF-8 byte")] = None
    documents: Annotated[int | None, About("documents of the slice")] = None
    tokens: Annotated[int | None, About("predicted tokens of the slice")] = None


@dataclass(frozen=True, kw_only=True)
class WorstSlice:
    """The slice with the most bits per byte."""

    name: Annotated[str, About("the slice")]
    bits_per_byte: Annotated[float, About("mean loss", "bits per UTF-8 byte")]


@dataclass(frozen=True, kw_only=True)
class SliceDrawn:
    """How much of a slice was drawn."""

    real: Annotated[float, About("its part of the real data", "0 to 1")]
    drawn: Annotated[float, About("its part of what was drawn so far", "0 to 1")]


@dataclass(frozen=True, kw_only=True)
class HeldOutFigures:
    """The result of one evaluation on held-out real documents."""

    nats_per_token: Annotated[float, About("held-out loss", "nats per token", "loss/held_out")]
    standard_error: Annotated[
        float | None, About("standard error of the held-out loss", "nats per token", "loss/held_out_standard_error")
    ]
    bits_per_byte: Annotated[
        float | None,
        About("held-out loss; null where the tokenizer loses text", "bits per UTF-8 byte", "bits_per_byte/held_out"),
    ]
    documents: Annotated[int, About("held-out documents evaluated")]
    tokens: Annotated[int, About("predicted tokens of these documents")]
    tail_nats_per_token: Annotated[
        float | None,
        About(
            "tail loss: of the 10 % of documents that were worst at the first evaluation", "nats per token", "loss/tail"
        ),
    ] = None
    slices: Annotated[
        Mapping[str, SliceLoss], About("loss by slice", "nats per token", {"nats_per_token": "loss/slice/{}"})
    ] = field(default_factory=dict)
    worst_slice: Annotated[WorstSlice | None, About("the slice with the most bits per byte")] = None
    source_nats_per_token: Annotated[
        Mapping[str, float], About("loss on a fixed sample of each training source", "nats per token", "loss/source/{}")
    ] = field(default_factory=dict)

    def bits_with_error(self) -> tuple[float, float]:
        """Bits per byte and their standard error, from the one in nats per token by the same factor; NaN without, and
        both NaN where the tokenizer loses text.
        """
        error = number(self.standard_error)
        if self.bits_per_byte is None:
            return nan, nan
        return self.bits_per_byte, error * self.bits_per_byte / self.nats_per_token if self.nats_per_token else 0.0


@dataclass(frozen=True, kw_only=True)
class StepMixture:
    """What the batch of a step was made of, by source."""

    counts: Annotated[Mapping[str, int], About("samples drawn by source", "samples", "share/{}/drawn", _parts)]
    shares: Annotated[Shares, About("shares in force", "millionths", "share/{}/target", in_ones)]
    epochs: Annotated[Mapping[str, float], About("epochs drawn so far by source", "epochs", "epochs/{}")]
