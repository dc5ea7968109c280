"""Feature alignment: the student's hidden states and attention are drawn to those of a live teacher, layer by layer.

Feature-alignment knowledge distillation (arXiv 2412.19449, NNICE 2025, DOI 10.1109/NNICE64954.2025.11063887) matches
intermediate features, attention and the output distribution. From its abstract: which distance, which layers, all
weights, the schedule, the student's size and every number in its tables are unverified, so this is a reconstruction
that claims none of them. To the loss of KD on the store's responses it adds, for pairs of a layer l of the student and
one l' of the teacher,

    weight * mean over t of 1 - cos(P h_l(t), h'_l'(t))        weight * mean over t of KL(a'_l'(t) || a_l(t))

at the response's positions t: h are hidden states, a attention averaged over heads (see `live_teacher.over_response`),
and P a trained projection where widths differ, else none. Nothing of it has a gradient to the teacher.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from response_priming import models
from response_priming.errors import InputError
from response_priming.methods.examples import deal
from response_priming.methods.live_teacher import Reading, Taught, over_response
from response_priming.methods.losses import IGNORED, Loss
from response_priming.methods.student import load

Term = Literal["hidden", "attention"]


class FeatureAlignment(Taught):
    """KD with terms of hidden states and attention."""

    title: ClassVar[str] = "Feature alignment"
    source: ClassVar[str] = "2412.19449"
    fidelity: ClassVar[Literal["exact", "reconstructed", "rule-only"]] = "reconstructed"
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "no-terms": {"terms": {}},
        "shuffled-layers": {"layers": "shuffled"},
        "hidden-alone": {"terms": {"hidden": 1.0}},
        "attention-alone": {"terms": {"attention": 1.0}},
    }
    terms: dict[Term, float] = Field({"hidden": 1.0, "attention": 1.0}, description="weights of the terms")
    layers: Literal["by-depth", "shuffled"] = Field("by-depth", description="which of the teacher's layers each meets")
    every: int = Field(3, ge=1, description="distance of the student's layers that are aligned")

    def student(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The student, whose attention is computed so that it can be looked at; in the controls, too."""
        return load(self.run, attention="eager")

    @functools.cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The layers that meet, (student's, teacher's), from 1; `InputError` where the teacher has too few."""
        own = models.config(self.run.student, self.run.student_revision).get_text_config().num_hidden_layers
        pairs = paired(own, self.teacher.layers, self.every)
        if len({other for _, other in pairs}) < len(pairs):
            raise InputError(
                f"generate.teacher = {self.teacher.name!r}: has {self.teacher.layers} layers, and {len(pairs)} of the "
                "student's are each to meet one of its own; allowed: a deeper teacher, or a larger `every`"
            )
        dealt = deal(len(pairs), self.run.seed) if self.layers == "shuffled" else range(len(pairs))
        return [(layer, pairs[place][1]) for (layer, _), place in zip(pairs, dealt, strict=True)]

    @functools.cached_property
    def projections(self) -> torch.nn.ModuleList:
        """P of each pair of layers; none where the widths are the same."""
        own = int(models.config(self.run.student, self.run.student_revision).get_text_config().hidden_size)
        count = len(self.pairs) if own != self.teacher.width else 0
        made = (torch.nn.Linear(own, self.teacher.width, bias=False) for _ in range(count))
        return torch.nn.ModuleList(made).to(self.teacher.model.device)

    def beside(self) -> torch.nn.Module:
        """See `Method.beside`."""
        return self.projections

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> Loss:
        """See `Method.loss`."""
        if not self.terms:
            return super().loss(model, batch, **counts)
        loss, reading = self._both(model, batch, **counts)
        self.spent["teacher_read"] += reading.tokens
        parts = self._parts(loss, reading, batch)
        more = sum(weight * parts[name].sum() for name, weight in self.terms.items())
        return loss._replace(total=loss.total + more / counts.get("hard_tokens", 1))

    def _both(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> tuple[Loss, Reading]:
        own, others = zip(*self.pairs, strict=True)
        reading = self.teacher.read(batch["problem_ids"], batch["labels"], layers=others, maps=True)
        return super().loss(model, batch, layers=own, maps=True, **counts), reading

    def _parts(self, loss: Loss, reading: Reading, batch: Mapping[str, Any]) -> dict[Term, Tensor]:
        """Each term at each pair and position, [pairs, rows, n]; 0 where padded."""
        assert loss.states is not None
        assert loss.maps is not None
        assert reading.states is not None
        assert reading.maps is not None
        real, own = batch["labels"] != IGNORED, loss.states
        if self.projections:
            both = zip(self.projections, own, strict=True)
            own = torch.stack([project(states.to(project.weight.dtype)) for project, states in both])
        seen = torch.stack([over_response(maps, batch["positions"], real) for maps in loss.maps])
        return {
            "hidden": torch.where(real, distance(own, reading.states), 0),
            "attention": torch.where(real, divergence(reading.maps, seen), 0),
        }

    def mechanism(self, model: torch.nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Of held-out responses, means over pairs of layers and tokens: 1 - cosine, and KL of attention in nats."""
        sums: Counter[str] = Counter()
        tokens = 0
        for batch in batches:
            tokens += len(self.pairs) * int((batch["labels"] != IGNORED).sum())
            parts = self._parts(*self._both(model, batch), batch)
            sums.update({name: float(part.sum()) for name, part in parts.items()})
        words = {"hidden": "hidden distance", "attention": "attention KL"}
        return {words[name]: total / tokens for name, total in sums.items()}


def paired(own: int, others: int, every: int) -> list[tuple[int, int]]:
    """Layers of a student of `own` layers and of a teacher of `others` at the same share of their depth, from 1.

    The student's are the last one and each `every` before it, closer where two are not to be had otherwise.
    """
    step = max(1, min(every, own // 2))
    return [(layer, max(1, round(layer * others / own))) for layer in range(own, 0, -step)][::-1]


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of hidden states [..., width], in [...]; the teacher's are constants."""
    kind = torch.promote_types(student.dtype, torch.float32)
    return 1 - F.cosine_similarity(student.to(kind), teacher.detach().to(kind), dim=-1)


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) of attention [..., keys], in nats [...]; the teacher's is constant.

    It differs from the cross-entropy by a constant, and is 0 where they agree.
    """
    kind = torch.promote_types(student.dtype, torch.float32)
    p, q = (part.to(kind).clamp(min=torch.finfo(kind).tiny) for part in (teacher.detach(), student))
    return (p * (p.log() - q.log())).sum(-1)
