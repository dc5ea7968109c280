"""The distillation objective: alpha * CE(hard) + (1 - alpha) * T^2 * divergence(soft), from hidden states and the head.

The soft part compares teacher and student on the teacher's k most likely tokens and one bucket that holds the rest of
the vocabulary, for both alike. Temperature acts on these k + 1 log-probabilities. With k = vocabulary there is no
bucket, and this is the dense loss of Hinton et al. 2015 (arXiv 1503.02531).

Logits are made for some positions at a time, and their gradient at once, so that memory does not grow with the number
of positions. Within such a chunk both parts depend on few numbers: the logits of the k tokens and of the label, and the
log-sum-exp of all other logits. Autograd sees those alone; the rest of the gradient is a softmax, written in place.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from response_priming import params

IGNORED = -100
# What one chunk may take. On a CPU larger ones were no faster (benchmarks/results/losses.md); on a GPU small ones leave
# it waiting (benchmarks/results/gpu-nvidia-h200.md).
CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**30}
# A log-probability may be -inf where the teacher's rest is empty; this is as good as zero probability, and finite.
SMALLEST_LOGPROB = -1e4


class Targets(NamedTuple):
    """What is wanted at n positions.

    `labels` [n], token or `IGNORED`. With a teacher: `scored` [n], whether its distribution counts there;
    `top_logprobs` [n, k], at temperature 1 in nats, of the tokens `top_ids` [n, k]; `tail_logprobs` [n], log of the
    probability outside them. Without `top_ids` the columns are the vocabulary; with k = vocabulary there is no tail.
    `weights` and `soft_weights` [n]: what each position's hard and soft part is multiplied by; None: by one.
    """

    labels: Tensor
    scored: Tensor | None = None
    top_logprobs: Tensor | None = None
    top_ids: Tensor | None = None
    tail_logprobs: Tensor | None = None
    weights: Tensor | None = None
    soft_weights: Tensor | None = None

    def part(self, rows: slice | Tensor) -> "Targets":
        """Some of the positions."""
        return Targets(*(None if values is None else values[rows] for values in self))  # type: ignore[arg-type]


class Loss(NamedTuple):
    """`total`, a scalar with a gradient; `hard` and `soft` [n], each position's part in nats, without one.

    A part is 0 where it does not count; `soft` contains the factor T^2, and both contain their weights. A student's
    forward pass gives hidden states and attention where they are asked for (see `student.teach`).
    """

    total: Tensor
    hard: Tensor
    soft: Tensor
    states: Tensor | None = None
    maps: Tensor | None = None


def distillation(
    hidden: Tensor,
    head: Tensor,
    targets: Targets,
    objective: "params.Distill",
    *,
    hard_tokens: Tensor | float = 1,
    soft_tokens: Tensor | float = 1,
    chunk_bytes: int | None = None,
) -> Loss:
    """The objective at n positions; without a teacher, the cross-entropy alone, whatever alpha is.

    Args:
        hidden: [n, width], what the head reads at each position.
        head: weight of the student's output layer, [vocabulary, width].
        hard_tokens, soft_tokens: what the sums over positions are divided by, for each part.
        chunk_bytes: what one chunk may take; None: what suits the device.
    """
    size = chunk_bytes or CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cpu"])
    weights = (1.0, 0.0) if targets.top_logprobs is None else (objective.alpha, 1 - objective.alpha)
    scale = weights[0] / hard_tokens, weights[1] / soft_tokens
    return Loss(*_Fused.apply(hidden, head, targets, objective, scale, size))  # type: ignore[no-untyped-call]


def terms(logits: Tensor, picked: Tensor, targets: Targets, objective: "params.Distill") -> tuple[Tensor, Tensor]:
    """Hard and soft part at each position, [n] each.

    Args:
        logits: the student's for the k tokens and, as one number, for all others (their log-sum-exp), [n, k + 1]; for
            the whole vocabulary there are no others.
        picked: the student's logit of each label, [n].
    """
    hard = torch.where(targets.labels == IGNORED, 0.0, logits.logsumexp(-1) - picked)
    hard = hard if targets.weights is None else targets.weights.to(hard.dtype) * hard
    if targets.top_logprobs is None or targets.scored is None:
        return hard, torch.zeros_like(hard)
    teacher = targets.top_logprobs.to(logits.dtype)
    if logits.shape[-1] > teacher.shape[-1]:
        assert targets.tail_logprobs is not None
        teacher = torch.cat([teacher, targets.tail_logprobs.to(logits.dtype)[:, None]], -1)
    heat, divergence = objective.kd_temperature, objective.soft_loss
    softened = [(part / heat).log_softmax(-1) for part in (teacher.clamp(SMALLEST_LOGPROB), logits)]
    soft = heat**2 * divergence.between(softened[0], softened[1], objective.divergence_share)
    soft = soft if targets.soft_weights is None else targets.soft_weights.to(soft.dtype) * soft
    return hard, torch.where(targets.scored, soft, 0.0)


class _Fused(torch.autograd.Function):
    """Losses and, in the same pass, their gradient with respect to the hidden states and the head, where needed."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Targets,
        objective: "params.Distill",
        scale: tuple[Tensor | float, Tensor | float],
        chunk_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind = torch.promote_types(hidden.dtype, torch.float32)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=kind) if needs_weight else None
        hard, soft = (hidden.new_zeros(len(hidden), dtype=kind) for _ in range(2))
        # A column takes 12 bytes for its logit and gradient, and 40 more where autograd sees it.
        k = 0 if targets.top_logprobs is None else targets.top_logprobs.shape[-1]
        step = max(1, chunk_bytes // (12 * len(weight) + 40 * k))
        for rows in (slice(start, start + step) for start in range(0, len(hidden), step)):
            logits = F.linear(hidden[rows], weight).to(kind)
            hard[rows], soft[rows], grad = _of_chunk(logits, targets.part(rows), objective, scale)
            if grad_hidden is not None:
                grad_hidden[rows] = grad.to(hidden.dtype) @ weight
            if grad_weight is not None:
                grad_weight += grad.to(hidden.dtype).T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(hard, soft)
        return hard.sum() * scale[0] + soft.sum() * scale[1], hard, soft

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * outer[0].to(grad.dtype) for grad in ctx.saved_tensors)
        return *grads, None, None, None, None


def _of_chunk(
    logits: Tensor, targets: Targets, objective: "params.Distill", scale: tuple[Tensor | float, Tensor | float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Hard and soft parts [n], and the gradient of their scaled sum [n, vocabulary], which takes the logits' place."""
    label = targets.labels.clamp(min=0)[:, None]
    picked = logits.gather(-1, label)[:, 0]
    seen, spread = _reduced(logits, targets)
    with torch.enable_grad():
        leaves = seen.requires_grad_(), picked.requires_grad_()
        hard, soft = terms(seen, picked, targets, objective)
        total = (hard * scale[0] + soft * scale[1]).sum()
    grad_seen, grad_picked = torch.autograd.grad(total, leaves)
    grad = spread(grad_seen)
    return hard.detach(), soft.detach(), grad.scatter_add_(-1, label, grad_picked[:, None])


def _reduced(logits: Tensor, targets: Targets) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The logits that `terms` sees, [n, k + 1], and what spreads their gradient over the vocabulary."""
    if targets.top_logprobs is not None and targets.top_ids is None:
        return logits.detach(), lambda grad: grad
    if targets.top_ids is None or targets.scored is None:
        ids = targets.labels.new_empty(len(logits), 0)
    else:
        # Where there is no signal all ids may be the same: any others do, as long as each stands for one token.
        others = torch.arange(targets.top_ids.shape[-1], device=logits.device)
        ids = torch.where(targets.scored[:, None], targets.top_ids.long(), others)
    top = logits.gather(-1, ids)
    if ids.shape[-1] == logits.shape[-1]:
        return top, lambda grad: torch.zeros_like(logits).scatter_(-1, ids, grad)
    # In place, and without the top k: their rest is exact even where it is a millionth of the whole.
    highest = logits.scatter_(-1, ids, -math.inf).amax(-1, keepdim=True)
    total = logits.sub_(highest).exp_().sum(-1, keepdim=True)
    rest = highest + total.log()
    return torch.cat([top, rest], -1), lambda grad: logits.mul_(grad[:, -1:] / total).scatter_add_(
        -1, ids, grad[:, :-1]
    )
