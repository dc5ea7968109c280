"""Online knowledge distillation, OKD-style: a teacher that is trained beside its student, and comes to meet it.

Rao et al. 2024 (arXiv 2409.12512) give the teacher small modules that are trained at the same time as the student, so
that no sampling from the student is needed. From the abstract and a summary: the kind and size of the modules, both
losses, their weights, the data sets and all tables are unverified, so this is a reconstruction that claims none of the
paper's numbers. Here the teacher p is its frozen weights with LoRA of the student's shape, and each step trains both,
either by a loss in which the other's distribution is constant:

    student  alpha * CE(y; q) + (1 - alpha) * T^2 * D(p || q)
    teacher  CE(y; p) + beta * KL(q || p)
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from response_priming.methods.live_teacher import LiveTeacher, Taught, dense
from response_priming.methods.losses import IGNORED, Loss
from response_priming.params.divergences import kl


class OKD(Taught):
    """OKD-style distillation. A teacher that keeps its weights is read in the same way."""

    title: ClassVar[str] = "OKD-style"
    source: ClassVar[str] = "2409.12512"
    fidelity: ClassVar[Literal["exact", "reconstructed", "rule-only"]] = "reconstructed"
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "teacher-frozen": {"rate": 0.0},
        "no-adaptation": {"beta": 0.0},
    }
    beta: float = Field(0.5, ge=0, description="weight of KL(student || teacher) in the teacher's loss")
    rate: float = Field(3.0e-4, ge=0, description="peak learning rate of the teacher; 0: it stays as it is")

    @functools.cached_property
    def teacher(self) -> LiveTeacher:
        """The teacher of `run.live` with LoRA."""
        found = LiveTeacher(self.run, trained=True)
        if not self.rate:
            found.model.requires_grad_(False)
        return found

    def beside(self) -> torch.nn.Module:
        """See `Method.beside`."""
        return cast("torch.nn.Module", self.teacher.model)

    @property
    def beside_rate(self) -> float:
        """See `Method.beside_rate`."""
        return self.rate

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> Loss:
        """See `Method.loss`; its value is the student's, the teacher's gradient comes with it."""
        reading = self.teacher.read(batch["problem_ids"], batch["labels"])
        self.spent["teacher_read"] += reading.tokens
        layers = {"layers": (-1,)} if reading.logprobs.requires_grad else {}
        loss = super().loss(model, dense(batch, reading.logprobs.detach()), **layers, **counts)
        if not layers:
            return loss
        hard, soft = teacher_parts(reading.logprobs, self._student(model, loss), batch["labels"])
        own = hard.sum() / counts.get("hard_tokens", 1) + self.beta * soft.sum() / counts.get("soft_tokens", 1)
        return loss._replace(total=loss.total + (own - own.detach()))

    @torch.no_grad()
    def _student(self, model: torch.nn.Module, loss: Loss) -> Tensor:
        """The student's log-probabilities at the scored positions, [rows, n, vocabulary]."""
        assert loss.states is not None
        logits: Tensor = cast("Any", model).get_output_embeddings()(loss.states[-1])[
            ..., : self.teacher.engine.vocabulary
        ]
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    def mechanism(self, model: torch.nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """In nats a token of held-out responses: how far the teacher p is from where it began, and from the student."""
        drift = gap = tokens = 0.0
        for batch in batches:
            names, labels, real = batch["problem_ids"], batch["labels"], batch["labels"] != IGNORED
            now = self.teacher.read(names, labels).logprobs
            with cast("Any", self.teacher.model).disable_adapter():
                before = self.teacher.read(names, labels).logprobs
            student = self._student(model, super().loss(model, dense(batch, now), layers=(-1,)))
            tokens += int(real.sum())
            drift += float(kl(now, before)[real].sum())
            gap += float(kl(now, student)[real].sum())
        return {"drift of teacher": drift / tokens, "gap": gap / tokens} if tokens else {}


def teacher_parts(teacher: Tensor, student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """CE(y; p) and KL(q || p) of the teacher's p at each position, [rows, n] in nats; 0 where padded.

    Args:
        teacher, student: log-probabilities, [rows, n, vocabulary]; gradients go to the teacher's alone.
        labels: y, [rows, n], `IGNORED` where padded.
    """
    real = labels != IGNORED
    surprise = -teacher.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return torch.where(real, surprise, 0), torch.where(real, kl(student.detach(), teacher), 0)
