"""E11: a memory of tokens with a Zipf tail, and a source that turns head-only.

What was drawn once is known; the held-out loss is the part of real tokens that is not. With p_i ~ i^-beta over V ranks
and T draws from q the expected miss is sum_i p_i (1 - q_i)^T. A head-only source gives ranks up to k and nothing else,
so what is left out of the tail (ranks above k) depends on the other draws alone: a run that drew g of T tokens from the
whole distribution has the tail miss of a real-only run of g tokens, about (T/g)^(1 - 1/beta) times that of T.
"""

# V ranks, H held-out tokens

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from experiments.evaluations import evaluation
from trainer.base.records import SHARE_ONE, FloatArray, Horizon, Observation, SourceValue

KINDS = {"real": "real", "written": "synthetic"}
TRIAL_PART = 0.25  # of the tokens between two evaluations


def zipf(beta: float, ranks: int) -> FloatArray:
    """p [V]."""
    weights = np.arange(1, ranks + 1) ** -beta
    normalized: FloatArray = weights / weights.sum()
    return normalized


def expected_miss(p: FloatArray, q: FloatArray, tokens: float, *, above: int = 0) -> float:
    """Part of real tokens of ranks beyond ``above`` not seen after ``tokens`` draws from q."""
    return float((p * np.exp(tokens * np.log1p(-q)))[above:].sum())


@dataclass(kw_only=True)
class MemoryWorld:
    """A run of ``evaluations`` spans of ``span_tokens``; ``written`` is like real data until span ``joins``, head-only
    from then on."""

    seed: int
    joins: int
    evaluations: int = 40
    span_tokens: int = 20_000
    share: float = 0.5  # of written, at the start
    beta: float = 1.5
    ranks: int = 20_000
    head: int = 100
    held_out: int = 500_000
    position: int = 0
    whole: list[float] = field(default_factory=list)  # tokens drawn from the whole distribution, by span

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self.p = zipf(self.beta, self.ranks)
        self._head_p = np.where(np.arange(self.ranks) < self.head, self.p, 0.0)
        self._head_p /= self._head_p.sum()
        self._documents = self._rng.multinomial(self.held_out, self.p)  # held-out tokens of each rank
        self._seen = np.zeros(self.ranks, dtype=bool)
        synthetic = round(self.share * 1000) * 1000
        self.kinds, self.shares = KINDS, {"real": SHARE_ONE - synthetic, "written": synthetic}

    @property
    def is_done(self) -> bool:
        """All spans made."""
        return self.position >= self.evaluations

    @property
    def is_bad(self) -> bool:
        """Whether ``written`` is head-only in the coming span."""
        return self.position >= self.joins

    def _draw(self, drawn: NDArray[np.bool_], tokens: float, q: FloatArray) -> NDArray[np.bool_]:
        return drawn | (self._rng.random(self.ranks) < -np.expm1(tokens * np.log1p(-q)))

    def _of(self, name: str) -> FloatArray:
        return self._head_p if name == "written" and self.position > self.joins else self.p

    def train(self, shares: Mapping[str, int]) -> None:
        """One span."""
        bad = self.is_bad
        self.position += 1
        whole = self.span_tokens * (shares["real"] / SHARE_ONE if bad else 1.0)
        for tokens, q in ((whole, self.p), (self.span_tokens - whole, self._head_p)):
            self._seen = self._draw(self._seen, tokens, q)
        self.whole.append(whole)

    def _miss(self, drawn: NDArray[np.bool_]) -> float:
        return float(self._documents[~drawn].sum() / self.held_out)

    def observation(self, shares: Mapping[str, int]) -> Observation:
        """What a run would know here: misses on held-out tokens, and trial steps on a few tokens of each source."""
        progress = self.position / self.evaluations
        return Observation(
            step=self.position,
            progress=progress,
            horizon=Horizon(
                num_steps=self.evaluations,
                global_batch=self.span_tokens,
                rates=[1.0] * self.evaluations,
                num_samples=dict.fromkeys(shares, self.evaluations * self.span_tokens),
            ),
            evaluation=evaluation(self.position, self._miss(self._seen)),
            losses={},
            evidence={"source_value": self._source_values()},
            shares=dict(shares),
            kinds=self.kinds,
            epochs=dict.fromkeys(shares, progress),
        )

    def _source_values(self) -> Mapping[str, SourceValue]:
        tokens = TRIAL_PART * self.span_tokens
        gained = {}
        for name, q in (("", self.p), ("real", self.p), ("written", self._of("written"))):
            after = self._draw(self._seen, tokens, q)
            gained[name] = float(self._documents[after & ~self._seen].sum() / self.held_out)
        unit = gained[""]
        error = {name: np.sqrt((gain + 1 / self.held_out) / self.held_out) for name, gain in gained.items()}
        if unit <= 3 * error[""]:
            return {}
        return {
            name: SourceValue(
                value=gained[name] / unit,
                standard_error=2.5 * error[name] / unit,
                num_samples=int(tokens),
                fresh_gain=unit / TRIAL_PART,
            )
            for name in ("real", "written")
        }

    def tokens_until_back(self, whole: list[float] | None = None, *, within: float = 0.05) -> float:
        """Tokens from the joining on until the tail miss is within 5 % of a real-only run's of as many tokens, and
        stays so."""
        spans = np.array(self.whole if whole is None else whole)
        fine = 50
        good = np.cumsum(np.repeat(spans / fine, fine))
        total = np.cumsum(np.full(len(good), self.span_tokens / fine))
        start = self.joins * fine
        grid = np.geomspace(good[0], total[-1], 200)
        misses = [expected_miss(self.p, self.p, tokens, above=self.head) for tokens in grid]
        ours, real_only = (np.interp(np.log(tokens[start:]), np.log(grid), misses) for tokens in (good, total))
        behind = np.flatnonzero(ours > (1 + within) * real_only)
        return float(behind[-1] + 1 if len(behind) else 0) * self.span_tokens / fine

    def oracle(self) -> list[float]:
        """Tokens of the whole distribution by span if it is dropped at the first one that can show it."""
        first = self.span_tokens * (1 - self.shares["written"] / SHARE_ONE)
        return [first if number == self.joins else float(self.span_tokens) for number in range(self.evaluations)]
