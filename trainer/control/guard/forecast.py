"""What held-out loss is forecast from: the learning-rate schedule, and the trends of a healthy fall over it."""

# W evaluations kept

from dataclasses import dataclass

import numpy as np

from trainer.base.records import FloatArray, Horizon
from trainer.control.guard.detector import DetectorSettings

FORECAST_EVALUATIONS = 60  # past of a forecast: over longer ones no trend holds while the learning rate changes


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning-rate schedule at the evaluations kept and now [W + 1]: ``area``, the learning rate summed up to
    them, and the ``rate`` itself, both relative to the greatest; 0 before the first.
    """

    area: FloatArray
    rate: FloatArray

    def trends(self) -> list[FloatArray]:
        """Trends of a healthy fall over the ``FORECAST_EVALUATIONS``: near e + b area^-a for small and large a, and the
        same with the drop that a falling rate brings (the variables of Tissue, Wang, Wang, arXiv 2408.11029).
        """
        area = np.where(self.area > 0, self.area, 1.0)
        constant = np.ones(len(area))
        return [
            np.column_stack(columns)
            for curve in (np.log(area), area**-0.5)
            for columns in ((constant, curve), (constant, curve, self.rate))
        ]


def forecast_settings(settings: DetectorSettings) -> DetectorSettings:
    """The settings of the progress statistic: a shorter past."""
    return DetectorSettings(
        history_evaluations=min(settings.history_evaluations, FORECAST_EVALUATIONS),
        min_evaluations=min(settings.min_evaluations, FORECAST_EVALUATIONS),
        margin=settings.margin,
        suspicion=settings.suspicion,
    )


def area_and_rate(horizon: Horizon, progress: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The learning rate summed up to each ``progress``, and there, relative to the whole run at the greatest rate."""
    rates = np.array(horizon.rates, dtype=np.float64) / max(horizon.rates)
    num = len(rates)
    edges, middles = np.arange(num + 1) / num, (np.arange(num) + 0.5) / num
    area = np.interp(progress, edges, np.concatenate([[0.0], np.cumsum(rates) / num]))
    return np.maximum(area, 0.5 / num * float(rates[0]) + 1e-9), np.interp(progress, middles, rates)
