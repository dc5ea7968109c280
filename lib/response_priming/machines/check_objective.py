"""The objective at a model's head beside liger-kernel and plain torch, in one call: memory, time and agreement.

On an H200 Liger's fused divergence takes 0.39 of our time for the dense loss, and 13 times our memory; it gives one
number, where training weighs positions and logs hard and soft loss by themselves. So `losses.distillation` does not
call it.
"""

import gc
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from response_priming.distill.trainer import forget_peak, peak_mib
from response_priming.machines.check import Failed, Sizes
from response_priming.methods import losses
from response_priming.methods.losses import Targets
from response_priming.params import Distill

K = 64
# Logits of bfloat16 have 8 bits, and their errors do not add up: over thousands of positions a mean loss is right to a
# few 1e-4, and a gradient's direction to 1e-4. An error in the mathematics is larger by orders of magnitude.
LOSS, COSINE = 5e-3, 0.999
SLICE = 256  # rows of the reference at a time
SECONDS = 0.5  # what a measurement may take at least


class Head(NamedTuple):
    """What a head reads, [n, width], with the gradient wanted; its weights; and those of a teacher."""

    hidden: Tensor
    weight: Tensor
    teacher: Tensor
    teacher_weight: Tensor


Step = Callable[[Tensor], Tensor]  # hidden states -> the loss, a mean over positions


def drawn(tokens: int, width: int, vocabulary: int, device: str, dtype: torch.dtype) -> Head:
    """Random numbers of a real head's size: logits with a standard deviation of about one."""
    generator = torch.Generator(device).manual_seed(0)
    rows = (tokens, width), (vocabulary, width), (tokens, width), (vocabulary, width)
    parts = (torch.randn(*shape, generator=generator, device=device, dtype=dtype) for shape in rows)
    hidden, weight, teacher, teacher_weight = parts
    return Head(hidden.requires_grad_(), weight.mul_(width**-0.5), teacher, teacher_weight.mul_(width**-0.5))


@torch.no_grad()
def targets(head: Head, kind: str) -> Targets:
    """Random labels; with a signal as a store has it, in fp16, of all tokens (`dense`) or of the likeliest (`top`)."""
    rows, device = len(head.hidden), head.hidden.device
    generator = torch.Generator(device).manual_seed(1)
    labels = torch.randint(0, len(head.weight), (rows,), device=device, generator=generator)
    if kind == "hard":
        return Targets(labels)
    parts: list[tuple[Tensor, ...]] = []
    for some in torch.split(head.teacher, SLICE):
        logprobs = (some @ head.teacher_weight.T).float().log_softmax(-1)
        if kind == "dense":
            parts.append((logprobs.half(),))
        else:
            top = logprobs.topk(K)
            tail = logprobs.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
            parts.append((top.values.half(), top.indices, tail.half()))
    signal = [torch.cat(column) for column in zip(*parts, strict=True)]
    return Targets(labels, torch.ones(rows, dtype=torch.bool, device=device), *signal)


def plain(hidden: Tensor, weight: Tensor, wanted: Targets, objective: Distill) -> Tensor:
    """The objective as one would write it, with all logits at once; a mean over positions."""
    logits = F.linear(hidden, weight).to(torch.promote_types(hidden.dtype, torch.float32))
    hard = F.cross_entropy(logits, wanted.labels, reduction="sum")
    if wanted.top_logprobs is None:
        return hard / len(hidden)
    teacher, student = wanted.top_logprobs.to(logits.dtype), logits.log_softmax(-1)
    if wanted.top_ids is not None and wanted.tail_logprobs is not None:
        rest = student.scatter(-1, wanted.top_ids, -torch.inf).logsumexp(-1, keepdim=True)
        student = torch.cat([student.gather(-1, wanted.top_ids), rest], -1)
        teacher = torch.cat([teacher, wanted.tail_logprobs.to(logits.dtype)[:, None]], -1)
    heat = objective.kd_temperature
    softened = [(part / heat).log_softmax(-1) for part in (teacher, student)]
    soft = heat**2 * objective.soft_loss.between(softened[0], softened[1], objective.divergence_share).sum()
    return (objective.alpha * hard + (1 - objective.alpha) * soft) / len(hidden)


def ours(weight: Tensor, wanted: Targets, objective: Distill) -> Step:
    """The suite's own."""

    def step(hidden: Tensor) -> Tensor:
        count = len(hidden)
        return losses.distillation(hidden, weight, wanted, objective, hard_tokens=count, soft_tokens=count).total

    return step


def liger_hard(head: Head, wanted: Targets) -> Step:
    """Liger's fused linear cross-entropy."""
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden: loss(head.weight, hidden, wanted.labels)


def liger_dense(head: Head, wanted: Targets, objective: Distill) -> Step:
    """Liger's fused linear Kullback-Leibler divergence from probabilities that are given."""
    from liger_kernel.transformers.fused_linear_kl_div import LigerFusedLinearKLDivLoss

    heat = objective.kd_temperature
    loss = LigerFusedLinearKLDivLoss(temperature=heat)
    assert wanted.top_logprobs is not None
    stored = wanted.top_logprobs
    return lambda hidden: heat**2 * loss(hidden, head.weight, (stored.float() / heat).softmax(-1))


def liger_chunked(head: Head, wanted: Targets, objective: Distill) -> Step:
    """Liger's chunked loss, which makes the teacher's logits, too, and has no kernel of its own."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    heat = objective.kd_temperature
    weights = {"weight_hard_loss": 0.0, "weight_soft_loss": heat**2}
    loss = LigerFusedLinearJSDLoss(**weights, beta=0.0, temperature=heat, compiled=False, chunk_size=SLICE)
    return lambda hidden: loss(hidden, head.weight, head.teacher, head.teacher_weight, wanted.labels)


def objective(sizes: Sizes) -> Iterator[str]:
    """Forward and backward of the objective at the head, ours beside liger-kernel's and torch's.

    The loss and the direction of the hidden states' gradient are compared with float32's, of the same numbers. Ours
    must be within 0.5 % of the loss, with a cosine of 0.999 at least: bfloat16 logits are right to 0.4 % each, and
    errors do not add up over positions. Milliseconds are medians; MiB are on top of the inputs.
    """
    device, about = sizes.device, sizes.model
    kind = getattr(torch, sizes.precision)
    yield "| tokens | loss | by | ms | MiB | loss off by | gradient's cosine |"
    yield "|---|---|---|---|---|---|---|"
    wrong = []
    for tokens in sizes.head_tokens:
        for signal in ("hard", "top", "dense"):
            head = drawn(tokens, about.hidden_size, about.vocab_size, device, kind)
            wanted, aim = targets(head, signal), Distill(alpha=0.0, kd_temperature=2.0)
            known = reference(head, wanted, aim)
            for name, make in contenders(head, wanted, aim, signal).items():
                found, close = measured(make, head.hidden, known)
                yield f"| {tokens:,} | {signal} | {name} | {found} |"
                if name == "ours" and not close:
                    wrong.append(f"{signal} at {tokens:,} tokens: {found}")
            del head, wanted, known
    if wrong:
        raise Failed(f"ours is not float32's: {'; '.join(wrong)}")


def contenders(head: Head, wanted: Targets, aim: Distill, signal: str) -> dict[str, Callable[[], Step]]:
    """What computes the same loss, by name; each is made when its turn comes."""
    found: dict[str, Callable[[], Step]] = {"ours": lambda: ours(head.weight, wanted, aim)}
    if signal == "hard":
        found["liger"] = lambda: liger_hard(head, wanted)
    if signal == "dense":
        found["liger"] = lambda: liger_dense(head, wanted, aim)
        found["liger, chunked"] = lambda: liger_chunked(head, wanted, aim)
    return found | {"torch": lambda: lambda hidden: plain(hidden, head.weight, wanted, aim)}


def reference(head: Head, wanted: Targets, aim: Distill) -> tuple[float, Tensor]:
    """The mean loss and its gradient [n, width] in float32, some rows at a time."""
    weight, total, grads = head.weight.float(), 0.0, list[Tensor]()
    for start in range(0, len(head.hidden), SLICE):
        rows = slice(start, start + SLICE)
        hidden = head.hidden[rows].detach().float().requires_grad_()
        share = len(hidden) / len(head.hidden)
        loss = share * plain(hidden, weight, wanted.part(rows), aim)
        grads += torch.autograd.grad(loss, hidden)
        total += float(loss.detach())
    return total, torch.cat(grads)


def measured(make: Callable[[], Step], hidden: Tensor, known: tuple[float, Tensor]) -> tuple[str, bool]:
    """Cells of the table, and whether loss and gradient are those that are known."""
    try:
        step = make()

        def once() -> Tensor:
            hidden.grad = None
            loss = step(hidden)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        loss = float(once())
        assert hidden.grad is not None
        off = abs(loss - known[0]) / abs(known[0])
        cosine = float(F.cosine_similarity(hidden.grad.float().flatten(), known[1].flatten(), dim=0))
        mib = taken(once)
        timer = Timer("once()", globals={"once": once}, num_threads=torch.get_num_threads())
        found = timer.blocked_autorange(min_run_time=SECONDS).median
    except (ImportError, RuntimeError) as error:  # out of memory, too
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace("|", "/")
        return f"not run: {reason[:100]} | | |", False
    finally:
        hidden.grad = None
    return f"{1e3 * found:,.2f} | {mib:,.0f} | {100 * off:.3f} % | {cosine:.6f}", off <= LOSS and cosine >= COSINE


def taken(step: Callable[[], object]) -> float:
    """MiB that a step takes at most on top of what is held before it: of the GPU, or of this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    forget_peak()
    held = torch.cuda.memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    step()
    return peak_mib() - held / 2**20
