"""Runs over generations of a model that trains on its own samples, as a ``World``: a real share is there to be steered.

Step n is one generation: the model is fitted to M samples, as many of them real as the shares say (exact counts), the
rest its own of the generation before. What it is a model of is a ``Family`` (experiments/tokens.py, sharpened.py). All
that control sees is measured on samples, as a run measures it: held-out real documents, the training loss on what was
drawn, trial steps that are undone, gradients on a few samples. A budget of real samples may end them: then synthetic
ones take their place.
"""

# N samples, P parameters, D held-out documents

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from experiments.probes import probe_counts, probe_times
from trainer.base.records import (
    SHARE_ONE,
    Evaluation,
    FloatArray,
    Forgetting,
    GradientAlignment,
    Horizon,
    Kind,
    Observation,
    SourceLoss,
    SourceValue,
)
from trainer.evaluate.evidence.forgetting import LASTING_STEPS, SETTLING_STEPS, forgetting_rate
from trainer.evaluate.evidence.source_value import TRIAL_STEPS

KINDS: dict[str, Kind] = {"real": "real", "synthetic": "synthetic"}
DOCUMENTS, DOCUMENT_SAMPLES = 60, 50
TRIAL_PART, READ_SAMPLES, ALIGNED_SAMPLES = 0.1, 512, 64
DRAW_SCATTER, LEAST_SIGNIFICANCE = 2.5, 3.0  # as in a run: what is allowed for the scatter between draws


class Family(Protocol):
    """What the model is a model of. ``parameters`` are plain arrays [P]; samples are rows of an array."""

    @property
    def truth(self) -> FloatArray:
        """Parameters of real data."""
        ...

    def drawn(self, parameters: FloatArray, num_samples: int, rng: np.random.Generator) -> Any:
        """Real samples, were these its parameters."""
        ...

    def generated(self, parameters: FloatArray, num_samples: int, rng: np.random.Generator) -> Any:
        """Samples as the model generates them."""
        ...

    def fitted(self, samples: Any) -> FloatArray:
        """The fit to samples."""
        ...

    def towards(self, parameters: FloatArray, others: FloatArray, part: float) -> FloatArray:
        """The part of the way from the one model to the other, by mixing what they model."""
        ...

    def nats(self, parameters: FloatArray, samples: Any) -> FloatArray:
        """Loss on each sample [N]."""
        ...

    def gradients(self, parameters: FloatArray, samples: Any) -> FloatArray:
        """Of the loss on each sample [N, P]."""
        ...

    def expected_excess(self, real_N: FloatArray, num_samples: int) -> float:
        """Expected excess loss on real data after generations with these real shares, of M samples each."""
        ...


@dataclass(kw_only=True)
class GenerationsWorld:
    """A run of ``num_generations`` of ``num_samples`` each, with an evaluation after each, from the truth on."""

    family: Family
    seed: int
    real_share: float
    num_generations: int = 100
    num_samples: int = 200
    real_samples: int | None = None
    position: int = 0
    path: list[float] = field(default_factory=list)  # real share of each generation, as drawn
    used: int = 0  # real samples

    def __post_init__(self) -> None:
        thousandths = round(self.real_share * 1000)
        self.kinds = KINDS
        self.shares = {"real": thousandths * 1000, "synthetic": SHARE_ONE - thousandths * 1000}
        self._rng = np.random.default_rng(self.seed)
        self._held_out = self.family.drawn(self.family.truth, DOCUMENTS * DOCUMENT_SAMPLES, self._rng)
        self._parameters = self.family.truth
        self._wanted = 0.0
        self._losses: dict[str, SourceLoss] = {}

    @property
    def is_done(self) -> bool:
        """All generations made."""
        return self.position >= self.num_generations

    @property
    def excess(self) -> float:
        """Expected final excess of the shares that were drawn."""
        return self.family.expected_excess(np.array(self.path), self.num_samples)

    def train(self, shares: Mapping[str, int]) -> None:
        """One generation."""
        self._wanted += shares["real"] / SHARE_ONE * self.num_samples
        most = np.inf if self.real_samples is None else self.real_samples
        num_real = min(int(min(round(self._wanted), most)) - self.used, self.num_samples)
        self.used += num_real
        self.path.append(num_real / self.num_samples)
        parts = {"real": self._of("real", num_real), "synthetic": self._of("synthetic", self.num_samples - num_real)}
        self._losses = {
            name: SourceLoss(loss_sum_nats=float(self.family.nats(self._parameters, part).sum()), tokens=len(part))
            for name, part in parts.items()
            if len(part)
        }
        self._parameters = self.family.fitted(np.concatenate([part for part in parts.values() if len(part)]))
        self.position += 1

    def observation(self, shares: Mapping[str, int]) -> Observation:
        """What a run would know here."""
        total = self.num_generations * self.num_samples
        unique = total if self.real_samples is None else self.real_samples
        synthetic = self.position * self.num_samples - self.used
        return Observation(
            step=self.position,
            progress=self.position / self.num_generations,
            horizon=Horizon(
                probes_until=1.0,
                num_steps=self.num_generations,
                global_batch=self.num_samples,
                rates=[1.0] * 100,  # each generation is a fit of its own
                num_samples={"real": unique, "synthetic": total},
                max_epochs={"real": 1.0},
            ),
            evaluation=self._evaluation(),
            losses=self._losses,
            evidence={
                "gradient_alignment": self._alignment(),
                "source_value": self._source_values(),
                "forgetting": self._forgetting(),
            },
            shares=dict(shares),
            kinds=self.kinds,
            epochs={"real": self.used / unique, "synthetic": synthetic / total},
        )

    def _of(self, source: str, num_samples: int) -> Any:
        if source == "real":
            return self.family.drawn(self.family.truth, num_samples, self._rng)
        return self.family.generated(self._parameters, num_samples, self._rng)

    def _evaluation(self) -> Evaluation:
        nats_D = self.family.nats(self._parameters, self._held_out).reshape(DOCUMENTS, DOCUMENT_SAMPLES).sum(axis=1)
        tokens_D = np.full(DOCUMENTS, DOCUMENT_SAMPLES)
        return Evaluation(
            step=self.position,
            loss_sum_nats=nats_D,
            tokens=tokens_D,
            num_bytes=tokens_D * 4,
            slice_of=np.zeros(DOCUMENTS, dtype=np.int64),
            slices=("all",),
            source_nats_per_token={
                name: float(self.family.nats(self._parameters, self._of(name, READ_SAMPLES)).mean()) for name in KINDS
            },
        )

    def _source_values(self) -> dict[str, SourceValue]:
        """Trial steps: a tenth of the way to a fit on one source alone, undone; gains on the same held-out samples."""
        read = self._of("real", READ_SAMPLES)
        before_N = self.family.nats(self._parameters, read)
        gains, errors = {}, {}
        for name in ("fresh", *KINDS):
            samples = self._of("real" if name == "fresh" else name, self.num_samples)
            trial_steps = self.family.towards(self._parameters, self.family.fitted(samples), TRIAL_PART)
            gain_N = before_N - self.family.nats(trial_steps, read)
            gains[name], errors[name] = float(gain_N.mean()), float(gain_N.std() / np.sqrt(len(gain_N)))
        if gains["fresh"] <= LEAST_SIGNIFICANCE * errors["fresh"]:
            return {}
        return {
            name: SourceValue(
                value=gains[name] / gains["fresh"],
                standard_error=DRAW_SCATTER * errors[name] / gains["fresh"],
                num_samples=self.num_samples,
            )
            for name in KINDS
        }

    def _forgetting(self) -> dict[str, Forgetting]:
        """A probe as a run makes it: two copies continue on the same samples, and are evaluated on the same held-out
        ones. A generation is a step at rate 1; steps on few samples go the smaller part of the way to a fit to them."""
        times = probe_times(num_steps=self.num_generations, every_steps=1)
        if not times.due(self.position, self.position):
            return {}
        counts = probe_counts(times, num_steps=self.num_generations, batch=self.num_samples)
        size, rng = counts.samples_per_step, np.random.default_rng([self.seed, self.position])
        part = np.sqrt(size / self.num_samples)
        common = [
            self.family.drawn(self.family.truth, size, rng)
            if number % 2
            else self.family.generated(self._parameters, size, rng)
            for number in range(SETTLING_STEPS + LASTING_STEPS)
        ]
        read, nats = self.family.drawn(self.family.truth, counts.held_out_samples, rng), []
        for draw in (partial(self.family.drawn, self.family.truth), partial(self.family.generated, self._parameters)):
            taught = [draw(size, rng) for _ in range(TRIAL_STEPS)]
            parameters = self._parameters
            for number, samples in enumerate([*taught, *common]):
                parameters = self.family.towards(parameters, self.family.fitted(samples), part)
                if number + 1 in (TRIAL_STEPS + SETTLING_STEPS, TRIAL_STEPS + SETTLING_STEPS + LASTING_STEPS):
                    nats.append(self.family.nats(parameters, read))
        one_each = np.ones(len(read), dtype=np.int64)
        forgetting = forgetting_rate(nats[2] - nats[0], nats[3] - nats[1], one_each, counts=counts, rate_scale=part)
        return {} if forgetting is None else {"synthetic": forgetting}

    def _alignment(self) -> dict[str, GradientAlignment]:
        """Inner products of mean gradients on few samples, with the errors that so few make."""
        held_out_NP = self.family.gradients(self._parameters, self._of("real", READ_SAMPLES))
        alignments = {}
        for name in KINDS:
            gradient_NP = self.family.gradients(self._parameters, self._of(name, ALIGNED_SAMPLES))
            ours_N, theirs_N = gradient_NP @ held_out_NP.mean(axis=0), held_out_NP @ gradient_NP.mean(axis=0)
            alignments[name] = GradientAlignment(
                inner_product=float(ours_N.mean()),
                standard_error=float(np.sqrt(ours_N.var() / len(ours_N) + theirs_N.var() / len(theirs_N))),
                variance=float(gradient_NP.var(axis=0, ddof=1).sum()),
                num_samples=ALIGNED_SAMPLES,
            )
        return alignments


def at_the_end(num_generations: int, real_generations: float) -> FloatArray:
    """Real shares [N] of a run whose real data all comes last: where the model is fitted anew in each generation, only
    the last one counts."""
    shares: FloatArray = np.clip(real_generations - np.arange(num_generations)[::-1], 0, 1)
    return shares
