"""Whether the guard will be able to judge held-out loss in a run, and the values that let it.

A guard that cannot see is silent, like one that sees nothing wrong: so it is said before the run, and wherever the
guard's silence is shown.
"""

from dataclasses import dataclass

from trainer.control.guard.config import GuardConfig
from trainer.evaluate.config import EvaluationConfig

BLIND = "the guard will not judge held-out loss"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The documents that each evaluation shows to the guard, and those that are held out for it (None: not known)."""

    documents: int
    held_out: int | None = None
    is_estimate: bool = False


def blindness(guard: GuardConfig, evaluation: EvaluationConfig, *, num_steps: int, sight: Sight | None) -> str | None:
    """Why the guard will not judge held-out loss, and what to set; None where it will, or is off.

    ``sight`` is None where the size of the held-out documents is not known: then only evaluations are counted.
    """
    if not guard.enabled:
        return None
    why, remedies = list[str](), list[str]()
    if sight is not None and sight.documents < guard.min_documents:
        about = "about " if sight.is_estimate else ""
        why.append(f"{about}{sight.documents} documents are evaluated, it needs {guard.min_documents}")
        remedies.append(_more_documents(guard.min_documents, sight.held_out))
    evaluations, needed = (num_steps - 1) // evaluation.every_steps, guard.advanced.min_evaluations
    if evaluations < needed:
        why.append(f"the run has {evaluations} evaluations, it needs {needed}")
        every = (num_steps - 1) // needed
        enough_steps = f"training.steps: {needed * evaluation.every_steps + 1}"
        remedies.append(f"evaluation.every_steps: {every}" if every else enough_steps)
        if every and len(why) == 1 and evaluation.validation_documents is None:  # each would have fewer documents
            remedies.append(f"evaluation.validation_documents: {guard.min_documents}")
    return f"{BLIND}: {' and '.join(why)}; set {', '.join(remedies)}" if why else None


def _more_documents(needed: int, held_out: int | None) -> str:
    if held_out is None or held_out >= needed:
        return f"evaluation.validation_documents: {needed}"
    fewer = f"control.guard.min_documents: {max(2, held_out)}"
    return f"data.held_out so that it holds out more (it has about {held_out} for validation), or {fewer}"
