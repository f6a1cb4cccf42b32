"""Graders: what scores synthetic rows and votes on them, and how far each can be trusted in this round.

A grader from outside is ``package.module:Name``, or an entry point of the group ``hybrid_trainer.graders``: called with
its configuration and its ``Surroundings``, it gives a ``Grader``. Its attribute ``Config`` is a
``trainer.base.config.Config`` with a field ``kind: str``; where that has ``faults``, the grader is graded on those, and
where it has ``scale`` (worst and best score), its scores are taken as beliefs.
"""

from typing import Annotated

from trainer.base.seams import OpenUnion, Seam
from trainer.synthesis.graders.config import (
    ExecutionConfig,
    FunctionConfig,
    GradingConfig,
    GroundingConfig,
    JudgeConfig,
    LikelihoodConfig,
    MathematicsConfig,
    SelfConfig,
)
from trainer.synthesis.graders.execution import execution
from trainer.synthesis.graders.function import function_grader
from trainer.synthesis.graders.grounding import grounding
from trainer.synthesis.graders.judge import judge, self_grading
from trainer.synthesis.graders.likelihood import likelihood
from trainer.synthesis.graders.mathematics import mathematics
from trainer.synthesis.graders.protocol import Grade, Grader, GraderFactory, Row, Surroundings
from trainer.synthesis.graders.record import GraderRecord, VerifierRecord

__all__ = [
    "GRADERS", "Grade", "Grader", "GraderConfig", "GraderFactory", "GraderRecord", "GradingConfig", "Row",
    "Surroundings", "VerifierRecord",
]  # fmt: skip

GRADERS: Seam[GraderFactory] = Seam(
    "graders",
    {
        "likelihood": likelihood,
        "self": self_grading,
        "judge": judge,
        "function": function_grader,
        "mathematics": mathematics,
        "execution": execution,
        "grounding": grounding,
    },
    requires=("__call__",),
    calls={"": ("config", "surroundings")},
    methods={"grade": ("rows",)},
)
GraderConfig = Annotated[
    LikelihoodConfig
    | SelfConfig
    | JudgeConfig
    | FunctionConfig
    | MathematicsConfig
    | ExecutionConfig
    | GroundingConfig,
    OpenUnion(GRADERS),
]
