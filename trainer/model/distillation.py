"""Learns from a teacher's distribution: forward KL over its k likeliest tokens and one bucket for all others.

    KL(p || q) = sum over the k of p_i (ln p_i - ln q_i)  +  p_rest (ln p_rest - ln q_rest)

with p the teacher's and q the student's probabilities, q_rest that of all tokens outside the k. It is the divergence
after the other tokens are merged into one: never above the full one, and not fooled by a student that puts mass where
the teacher has almost none, as a sum over the k alone is. Forward KL on stored text asks nothing of the student's own
samples, so that the targets can be prepared once and a resumed run reads the same.
"""

# B rows of a micro-batch, T tokens, P = T - 1 predicted tokens, V vocabulary, k likeliest tokens, K = k + 1

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TeacherTargets:
    """What the teacher expects after each token: ``ids[B, T, k]`` its likeliest tokens, ``log_probabilities[B, T, K]``
    theirs and, last, that of all others together; ``is_given[B]``, on the host, is false for a row that no teacher has
    read.
    """

    ids: "Tensor"
    log_probabilities: "Tensor"
    is_given: "Tensor"

    def rows(self, start: int, end: int) -> "TeacherTargets":
        """Those of a part of the rows."""
        return TeacherTargets(
            ids=self.ids[start:end],
            log_probabilities=self.log_probabilities[start:end],
            is_given=self.is_given[start:end],
        )


def teacher_divergences(logits_BTV: "Tensor", teacher: TeacherTargets, num_valid_B: "Tensor") -> "Tensor":
    """KL(teacher || student) in nats at each predicted token, fp32 [B, P]; exactly 0, in value and gradient, in rows
    without a teacher and at the targets from ``num_valid`` on.
    """
    import torch

    num_rows, length = logits_BTV.shape[:2]
    divergences_BP = torch.zeros((num_rows, length - 1), dtype=torch.float32, device=logits_BTV.device)
    given = teacher.is_given.nonzero().flatten()  # on the host, so that nothing waits for the device
    if not len(given):
        return divergences_BP
    rows, device = given.to(logits_BTV.device), logits_BTV.device
    ids = teacher.ids[given, :-1].to(device, non_blocking=True).long()
    log_probabilities = teacher.log_probabilities[given, :-1].to(device, non_blocking=True)
    divergences = tail_divergence(logits_BTV[rows, :-1].float(), ids, log_probabilities.float())
    is_target = torch.arange(1, length, device=device) < num_valid_B[rows][:, None]
    return divergences_BP.index_copy(0, rows, torch.where(is_target, divergences, 0.0))


def tail_divergence(logits: "Tensor", ids: "Tensor", log_probabilities: "Tensor") -> "Tensor":
    """KL in nats [...] of the student's ``logits[..., V]`` from the teacher's ``log_probabilities[..., K]`` of the
    different tokens ``ids[..., k]`` and of the rest. The teacher's need not sum to 1 to the last digit.
    """
    import torch

    expected = torch.log_softmax(log_probabilities, -1)
    whole = torch.logsumexp(logits, -1, keepdim=True)
    likeliest = logits.gather(-1, ids) - whole
    # Not log(1 - sum): with a sure student that is the log of a rounding error, and its gradient has no bound.
    rest = torch.logsumexp(logits.scatter(-1, ids, -torch.inf), -1, keepdim=True) - whole
    student = torch.cat([likeliest, rest], -1)
    has_mass = expected > -torch.inf
    expected, student = (torch.where(has_mass, part, 0.0) for part in (expected, student))
    return torch.where(has_mass, expected.exp() * (expected - student), 0.0).sum(-1)


def mixed(losses_BP: "Tensor", divergences_BP: "Tensor", is_given_B: "Tensor", weight: float) -> "Tensor":
    """The objective at each token [B, P]: (1 - weight) x cross entropy + weight x KL in the rows that a teacher read,
    cross entropy in all others.
    """
    return losses_BP * (1 - weight * is_given_B.float())[:, None] + weight * divergences_BP
