"""Divergences by name: how far the student's next-token distribution is from the teacher's, the soft part of the loss.

A new one is an entry. Each takes log-probabilities in nats [..., n] and gives nats [...]; with the methods of tensors
alone, so that a profile is checked against the names without PyTorch, which takes seconds to import.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Divergence(NamedTuple):
    """`words`: its name in a sentence. `between`: (teacher, student, share) -> divergence."""

    words: str
    between: "Callable[[Tensor, Tensor, float], Tensor]"


def kl(p: "Tensor", q: "Tensor") -> "Tensor":
    """KL(p || q)."""
    return (p.exp() * (p - q)).sum(-1)


def mixed(p: "Tensor", q: "Tensor", share: float) -> "Tensor":
    """The log-probabilities of share * p + (1 - share) * q."""
    return (p + math.log(share)).logaddexp(q + math.log1p(-share))


def jsd(teacher: "Tensor", student: "Tensor", share: float) -> "Tensor":
    """Generalised Jensen-Shannon divergence, beta = share (Agarwal et al. 2024, arXiv 2306.13649, equation 1).

    share * KL(teacher || m) + (1 - share) * KL(student || m), where m mixes the teacher in with that share.
    """
    mixture = mixed(teacher, student, share)
    return share * kl(teacher, mixture) + (1 - share) * kl(student, mixture)


# Of the teacher's p and the student's q. The skewed ones mix some of the first into the second distribution (Ko et al.
# 2024, DistiLLM, arXiv 2402.03898, equations 3 and 5). The paper of this project takes reverse KL.
DIVERGENCES = {
    "forward-kl": Divergence("the forward Kullback-Leibler divergence", lambda p, q, _: kl(p, q)),
    "reverse-kl": Divergence("the reverse Kullback-Leibler divergence", lambda p, q, _: kl(q, p)),
    "symmetric-kl": Divergence("the symmetric Kullback-Leibler divergence", lambda p, q, _: (kl(p, q) + kl(q, p)) / 2),
    "jsd": Divergence("the generalised Jensen-Shannon divergence", jsd),
    "skew-kl": Divergence("the skew Kullback-Leibler divergence", lambda p, q, share: kl(p, mixed(p, q, share))),
    "skew-reverse-kl": Divergence(
        "the skew reverse Kullback-Leibler divergence", lambda p, q, share: kl(q, mixed(q, p, share))
    ),
}
