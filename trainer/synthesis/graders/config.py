"""What a recipe says of graders, and of how they are graded themselves."""

from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from trainer.base.config import Config
from trainer.synthesis.generators import GeneratorConfig

Fault = Literal["shuffled", "swapped", "truncated", "repeated", "other"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
_SCORE = r"^[A-Za-z_][\w-]*$"


class BuiltinGraderConfig(Config):
    """What every built-in grader has."""

    name: str | None = Field(None, pattern=_SCORE, description="what its scores are called; default: its kind")
    faults: tuple[Fault, ...] = Field(
        FAULTS, min_length=1, description="what it is there to find: it is graded on real rows and on such ones"
    )

    @property
    def scale(self) -> tuple[float, float] | None:
        """Worst and best score, where scores are told as degrees of one's belief that a row is good."""
        return None


class LikelihoodConfig(BuiltinGraderConfig):
    """Drop texts that a model finds less likely than real text, or more likely: both are faults."""

    kind: Literal["likelihood"] = "likelihood"
    model: str = Field(description="folder as `save_pretrained` writes it, relative to the recipe, or a hub id")
    faults: tuple[Fault, ...] = Field(
        ("shuffled", "repeated"), min_length=1, description="what it is there to find: it is graded on such rows"
    )
    lower_tail: float = Field(
        0.02, ge=0, lt=0.5, description="share of real texts with less loss: a text below has too little to say"
    )
    upper_tail: float = Field(
        0.02,
        ge=0,
        lt=0.5,
        description="share of real texts with more loss: one above is not in the source's language",
    )
    reference_rows: int = Field(200, ge=20, le=100_000, description="real rows of a slice that make the bounds")
    max_tokens: int = Field(512, ge=8, description="only so many tokens of a text are looked at")


class JudgeSettings(BuiltinGraderConfig):
    """What a model is asked."""

    aspects: dict[str, str] = Field(
        default={
            "accuracy": "every fact agrees with the source, and none is made up",
            "language": "it is clear, whole and well written",
            "content": "it tells a reader what matters, and repeats nothing",
        },
        min_length=1,
        description="what is scored, by name: from 1 to 10",
    )
    keep_from: float = Field(6.0, ge=1, le=10, description="rows whose mean score is lower are dropped")
    pairwise: bool = Field(
        False, description="compare with the real row instead, in both orders; drop what loses in both"
    )
    max_characters: int = Field(4000, ge=100, description="of text and of source that are shown")
    max_new_tokens: int = Field(96, ge=1, le=100_000, description="an answer is cut off there")
    if_unreachable: Literal["stop", "abstain"] = Field(
        "stop", description="stop the round, to be resumed; or continue without this grader's vote"
    )
    time_limit_s: float | None = Field(
        None, gt=0, description="of a round; rows that are not judged by then get no verdict"
    )

    @property
    def scale(self) -> tuple[float, float] | None:
        """Scores of aspects run from 1 to 10; who compares says no degree."""
        return None if self.pairwise else (1.0, 10.0)


class SelfConfig(JudgeSettings):
    """The generator grades what it wrote."""

    kind: Literal["self"] = "self"


class JudgeConfig(JudgeSettings):
    """Another model grades."""

    kind: Literal["judge"] = "judge"
    model: GeneratorConfig = Field(description="what judges, as a generator is written: transformers, endpoint, ...")


class FunctionConfig(BuiltinGraderConfig):
    """A function of yours scores rows."""

    kind: Literal["function"] = "function"
    function: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$",
        description="`package.module:Name`: of a row; gives a number, the higher the better, or None to abstain",
    )
    keep_from: float = Field(description="rows with a lower score are dropped")
    worst_and_best: tuple[float, float] | None = Field(
        None, description="ends of the scale, where the score is a degree of belief that a row is good"
    )

    @property
    def scale(self) -> tuple[float, float] | None:
        """As the recipe tells it."""
        return self.worst_and_best


class MathematicsConfig(BuiltinGraderConfig):
    """Drop rows whose answer is not the reference answer of the real row."""

    kind: Literal["mathematics"] = "mathematics"
    answer_column: str = Field(description="column of the real row that holds the answer; name it in `provenance`")
    faults: tuple[Fault, ...] = Field(
        ("swapped", "truncated", "other"), min_length=1, description="what it is there to find"
    )
    time_limit_s: float = Field(5.0, gt=0, description="for a row; one that takes longer gets no verdict")


class ExecutionConfig(BuiltinGraderConfig):
    """Drop rows whose Python code fails the tests of the real row. Runs without network, files or other processes."""

    kind: Literal["execution"] = "execution"
    tests_column: str | None = Field(
        None, description="column of the real row with code that is run after the row's; default: it only has to run"
    )
    faults: tuple[Fault, ...] = Field(
        ("shuffled", "truncated", "other"), min_length=1, description="what it is there to find"
    )
    time_limit_s: float = Field(10.0, gt=0, description="for a row")
    memory_mib: int = Field(512, ge=64, description="address space of the process")


class GroundingConfig(BuiltinGraderConfig):
    """Drop rows with names, numbers or dates that the real row does not hold."""

    kind: Literal["grounding"] = "grounding"
    faults: tuple[Fault, ...] = Field(("swapped", "other"), min_length=1, description="what it is there to find")
    max_ungrounded_share: float = Field(0.2, ge=0, lt=1, description="of names, numbers and dates that may be missing")
    max_ungrounded: int = Field(1, ge=0, description="so many may be missing, whatever their share")


class GradingConfig(Config):
    """How graders are graded: on real training rows, and on such rows made bad. One out of range loses its vote."""

    rows: int = Field(60, ge=20, le=10_000, description="real training rows that are held back in a round; as many bad")
    min_agreement: float = Field(
        0.55, ge=0.5, le=1, description="balanced accuracy that the lower end of its 95 % interval must reach"
    )
    max_calibration_error: float = Field(
        0.35, ge=0, le=1, description="of graders with a scale: mean distance of belief and truth"
    )
    max_length_bias: float = Field(
        0.5, ge=0, le=1, description="rank correlation of score and length among whole texts of one kind"
    )
    max_self_preference: float = Field(
        0.25,
        ge=0,
        le=0.5,
        description="how much more often than half the generator's text beats real text, equally bad",
    )
    max_position_bias: float = Field(
        0.2, ge=0, le=0.5, description="how much more often than half the first of two is chosen"
    )
    max_abstained: float = Field(0.5, ge=0, le=1, description="share of rows without a verdict")


def name_of(config: Any) -> str:
    """The grader's name: as configured, or its kind; of what is imported the name after the colon."""
    path = str(getattr(config, "function", config.kind))
    return str(getattr(config, "name", None) or path.partition(":")[2] or path)


def faults_of(config: Any) -> tuple[Fault, ...]:
    """What the grader is there to find; all, for a grader from outside that does not say."""
    faults: tuple[Fault, ...] = getattr(config, "faults", FAULTS)
    return faults


def scale_of(config: Any) -> tuple[float, float] | None:
    """The scale of its scores, where they are beliefs."""
    scale: tuple[float, float] | None = getattr(config, "scale", None)
    return scale


class WithGraders(Config):
    """The part of a round's configuration that grades."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [name_of(grader) for grader in getattr(self, "graders", ())]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"graders need different names, got {', '.join(twice)} more than once: give them `name`")
        return self
