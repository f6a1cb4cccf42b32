"""The law of repetition fitted to the constant shares of the text laboratory: ``python -m experiments.repetition``.

L = a - b ln(D) + k (R / 20)^n, with D the effective tokens of all sources by the published discount (R* = 15.4), the
synthetic ones at the prior values that n-grams give them, and R = E - 1 repeats of real text in the last term, what
memorizing takes from all that was learned. Without that term (k = 0) it is the published law. Fitted to the cells of
600 steps that are stored (results/text.json), seeds by their median; written to results/repetition.json.
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.scenarios import SCENARIOS
from trainer.base.records import FloatArray
from trainer.control.priced.prior import water_filled
from trainer.control.priced.repeats import OVERFITTING_REPEATS, effective_tokens, epochs_until

RESULTS = Path(__file__).parent / "results"
VALUES = {"written": 0.62, "scrambled": 0.45}  # by n-grams, of the sources beside `scarce` real text
FITTED = ("scarce", "tenth", "quarter", "junk")
TOKENS_PER_STEP, SYNTHETIC_TOKENS = 32 * 64, 550_000


def observations(stored: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each scenario and constant share: tokens, epochs, and the median test loss."""
    losses, epochs = defaultdict[tuple[str, str], list[float]](list), {}
    for name, cell in stored.items():
        scenario, arm, _ = name.split("/")
        if scenario in FITTED and arm.startswith("static-"):
            losses[scenario, arm].append(cell["test_nats_per_token"])
            epochs[scenario, arm] = cell["epochs"]
    rows = []
    for (scenario, arm), values in sorted(losses.items()):
        share, total = float(arm.removeprefix("static-")), SCENARIOS[scenario].steps * TOKENS_PER_STEP
        drawn = epochs[scenario, arm]
        (other,) = (name for name in drawn if name != "real")
        real = share * total / drawn["real"]
        effective = effective_tokens(real, share * total)
        effective += VALUES[other] * effective_tokens(SYNTHETIC_TOKENS, (1 - share) * total)
        rows.append({"scenario": scenario, "share": share, "epochs": drawn["real"], "effective": effective,
                     "loss": median(values)})  # fmt: skip
    return rows


def fit(rows: list[dict[str, Any]], *, overfits: bool) -> dict[str, float]:
    """The parameters of least squares, and the root of the mean square residual in nats."""
    from scipy.optimize import least_squares

    loss, effective = (np.array([row[key] for row in rows]) for key in ("loss", "effective"))
    repeats = np.maximum(np.array([row["epochs"] for row in rows]) - 1, 0)

    def residual(p: FloatArray) -> FloatArray:
        term = np.exp(p[2]) * (repeats / OVERFITTING_REPEATS) ** np.exp(p[3]) if overfits else 0.0
        off: FloatArray = p[0] - p[1] * np.log(effective / 5e5) + term - loss
        return off

    found = least_squares(residual, [4.0, 0.3, -1.0, 1.2] if overfits else [4.0, 0.3])
    a, b, *term = found.x
    rms = float(np.sqrt(np.mean(found.fun**2)))
    figures = {"a": float(a), "b": float(b), "rms_nats": rms}
    if overfits:
        figures |= {"k_over_b": float(np.exp(term[0]) / b), "n": float(np.exp(term[1]))}
    return figures


def main() -> None:
    """Fit both laws, print and store them."""
    rows = observations(json.loads((RESULTS / "text.json").read_text()))
    fits = {"published": fit(rows, overfits=False), "with overfitting": fit(rows, overfits=True)}
    print(f"{len(rows)} constant shares of {', '.join(FITTED)}")
    for name, figures in fits.items():
        print(f"{name}: {', '.join(f'{key} {value:.3f}' for key, value in figures.items())}")
    print("\n| scenario | steps | real share asked for | epochs | epochs without harm | best of the sweep |")
    print("| --- | --- | --- | --- | --- | --- |")
    asked = {}
    sizes = {"scarce": 49_664, "tenth": 92_992, "quarter": 234_496, "junk": 49_664, "brief": 49_664}
    best = {"scarce": 0.3, "tenth": 0.5, "quarter": 0.7, "junk": 0.5, "brief": 1.0}
    for name, unique in sizes.items():
        total = SCENARIOS[name].steps * TOKENS_PER_STEP
        (other,) = SCENARIOS[name].synthetic
        unique_of = {"real": float(unique), "made": float(SYNTHETIC_TOKENS)}
        share = water_filled({"real": 1.0, "made": VALUES[other]}, unique_of, float(total), max_epochs={})["real"]
        ends = epochs_until(0.0, total / unique)
        asked[name] = {"share": share, "epochs": share * total / unique, "epochs_without_harm": ends}
        epochs = share * total / unique
        print(f"| {name} | {SCENARIOS[name].steps} | {share:.2f} | {epochs:.1f} | {ends:.1f} | {best[name]:g} |")
    RESULTS.joinpath("repetition.json").write_text(json.dumps({"fits": fits, "asked": asked}, indent=1) + "\n")


if __name__ == "__main__":
    main()
