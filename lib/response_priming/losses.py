"""The distillation objective: alpha * CE(hard) + (1 - alpha) * T^2 * divergence(soft), summed over response tokens.

The soft part compares teacher and student on the teacher's k most likely tokens and one bucket that holds the rest of
the vocabulary, for both alike. Temperature acts on these k + 1 log-probabilities. With k = vocabulary there is no
bucket, and this is the dense loss of Hinton et al. 2015 (arXiv 1503.02531); JSD is the generalised one of Agarwal et
al. 2024 (arXiv 2306.13649), here at beta = 1/2.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
# fp32 cannot tell a smaller rest from none: one floor for both keeps gradients finite and like distributions alike.
SMALLEST_REST = 1e-7


def with_tail(top_logprobs: Tensor) -> Tensor:
    """Append the log-probability of everything outside the top k: [..., k] -> [..., k + 1]."""
    kept = top_logprobs.exp().sum(-1, keepdim=True)
    return torch.cat([top_logprobs, torch.log1p(-kept.clamp(max=1 - SMALLEST_REST))], dim=-1)


def forward_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats; both log-probabilities [..., n], result [...]."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def reverse_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(student || teacher) in nats; the paper's divergence."""
    return forward_kl(student, teacher)


def jsd(teacher: Tensor, student: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats: mean KL of both to their mixture; at most log 2."""
    mixture = torch.logaddexp(teacher, student) - math.log(2)
    return (forward_kl(teacher, mixture) + forward_kl(student, mixture)) / 2


DIVERGENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "jsd": jsd,
}


def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of cross-entropies in nats over labels that are not `IGNORED`.

    Args:
        logits: [batch, tokens, vocabulary]; position t already predicts label t.
        labels: [batch, tokens].
    """
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def soft_loss(
    logits: Tensor, top_ids: Tensor, top_logprobs: Tensor, mask: Tensor, *, divergence: str, temperature: float
) -> Tensor:
    """Sum over masked-in positions of T^2 * divergence(teacher, student), in nats.

    Args:
        logits: student, [batch, tokens, vocabulary]; position t predicts the token whose signal stands at t.
        top_ids, top_logprobs: the teacher's signal, [batch, tokens, k], log-probabilities at temperature 1.
        mask: [batch, tokens], true where a response token is.
    """
    picked = logits[mask].float()
    both = top_logprobs[mask].float(), picked.gather(-1, top_ids[mask]) - picked.logsumexp(-1, keepdim=True)
    if top_ids.shape[-1] < logits.shape[-1]:
        both = with_tail(both[0]), with_tail(both[1])
    tempered = [(logprobs / temperature).log_softmax(-1) for logprobs in both]
    return temperature**2 * DIVERGENCES[divergence](*tempered).sum()
