"""MiniLLM: reverse KL over whole responses, on the student's own samples, a live teacher scoring them.

Gu et al. 2024 (arXiv 2306.08543, ICLR 2024) minimise KL(q || p) of the student's q from the teacher's p over whole
responses y. With r_t = log p(y_t | ...) - log q(y_t | ...), its gradient is the mean over y drawn from q of

    sum over t of  grad KL(q_t || p_t)  +  R_{t+1} grad (-log q(y_t)),   R_{t+1} = sum of r_t' over t' > t,

the first part exact over the vocabulary, which the soft loss is; the second, long one is the hard loss with weights.
Its released code (github.com/microsoft/LMOps, minillm) has r_t in the long part, too, and so counts each immediate step
twice; here it is not. With a teacher mixed into the sampling, weights of importance are exact products (see
`rollouts.importance`), clipped, where the released code takes those of single tokens.

Departs: one update for each batch of samples, so no ratio to clip; no discount, scaling or clipping of rewards; no
pre-training text, in place of which a share of each step stays responses of the store; the student begins as the model
that it is, not fine-tuned first. The length-normalised R is divided by the number of its terms, since as printed it is
0 / 0 at the last but one token. Its tables for LLaMA and OPT are unverified, and none of its numbers is claimed.
"""

import itertools
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from response_priming.methods import rollouts
from response_priming.methods.base import Method
from response_priming.methods.live_teacher import Taught, dense
from response_priming.methods.losses import IGNORED, Loss


class MiniLLM(Taught):
    """MiniLLM, its single steps exact, its long part by weights; `spent` counts clipped weights, too."""

    title: ClassVar[str] = "MiniLLM"
    source: ClassVar[str] = "2306.08543"
    base: ClassVar[Mapping[str, Any]] = {"divergence": "reverse-kl", "alpha": 0.5, "kd_temperature": 1.0}
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "teacher-texts": {"texts": "teacher"},
        "no-long-part": {"long": 0.0},
        "reversed-reward": {"long": -1.0},
    }
    texts: Literal["student", "teacher"] = Field("student", description="whose texts, but for the share `data`")
    data: float = Field(0.5, ge=0, lt=1, description="share of each step that stays responses of the store")
    long: float = Field(1.0, description="weight of the long part")
    normalised: bool = Field(True, description="the long part's rewards are means, not sums")
    mix: float = Field(0.2, ge=0, lt=1, description="the teacher's share in the distribution that is sampled from")
    clip: float = Field(10.0, ge=1, description="largest weight of importance")

    def batch(
        self, model: torch.nn.Module, batch: Mapping[str, Any], *, seed: int, step: int, item: int
    ) -> Mapping[str, Any]:
        """The batch with samples in place of some of its responses.

        `sampled` [rows] says which; `given` [rows, n] is the student's log-probability of each of their tokens.
        """
        rows = range(len(batch["problem_ids"]) if self.texts == "student" else 0)
        # Evenly over the step, whatever its micro-batches are.
        drawn = [row for row in rows if int((item + row + 1) * self.data) == int((item + row) * self.data)]
        draws = [rollouts.draw(seed, step, item + row) for row in drawn]
        made = self._sampled(model, batch, drawn, draws, self.mix)
        tokens = int((made["labels"][drawn] != IGNORED).sum())
        self.spent["student_generated"] += tokens
        if self.mix:
            asked = self.teacher.prompts([batch["problem_ids"][row] for row in drawn])
            self.spent["teacher_read"] += tokens + sum(len(prompt) - self.teacher.shared for prompt in asked)
        return made

    def _sampled(
        self, model: torch.nn.Module, batch: Mapping[str, Any], drawn: list[int], draws: list[Random], share: float
    ) -> dict[str, Any]:
        """The batch with samples in the rows `drawn`, into which so much of the teacher is mixed (see `batch`)."""
        teacher, room = self.teacher, self.teacher.response_tokens
        answers: list[list[int]] = []
        if drawn:
            names = [batch["problem_ids"][row] for row in drawn]
            questions = [rollouts.question(batch, row) for row in drawn]
            mixed_in = teacher.reader(names, room) if share else None
            with rollouts.answering(model, teacher.engine.tokenizer) as engine:
                answers = rollouts.sample(engine, questions, draws, max_tokens=room, teacher=mixed_in, share=share)
        made = rollouts.answered(batch, dict(zip(drawn, answers, strict=True)), teacher.pad)
        sampled = torch.zeros(len(made["labels"]), dtype=torch.bool)
        sampled[drawn] = True
        given = torch.zeros(made["labels"].shape, device=made["labels"].device)
        if drawn:
            part = {key: values[drawn] for key, values in made.items() if key != "problem_ids"}
            training = model.training
            hard = Method.loss(self, model.eval(), part).hard
            model.train(training)
            given = given.to(hard.dtype).index_copy(0, torch.tensor(drawn, device=hard.device), -hard)
        return made | {"given": given, "sampled": sampled.to(given.device)}

    def loss(self, model: torch.nn.Module, batch: Mapping[str, Any], **counts: Any) -> Loss:
        """See `Method.loss`."""
        reading = self.teacher.read(batch["problem_ids"], batch["labels"])
        self.spent["teacher_read"] += reading.tokens
        labels, given, sampled = batch["labels"], batch["given"], batch["sampled"][:, None]
        counted = labels != IGNORED
        said = reading.logprobs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        said = torch.where(counted & sampled, said, 0).to(given.dtype)
        weights = self.long * to_come(said - given, counted, normalised=self.normalised)
        soft_weights = torch.ones_like(weights)
        if self.mix:
            step, whole = rollouts.importance(said, given, self.mix)
            self.spent["clipped_weights"] += int(((step > self.clip) & counted & sampled).sum())
            weights, soft_weights = weights * whole.clamp(max=self.clip), step.clamp(max=self.clip)
        weighted = {"weights": torch.where(sampled, weights, 1), "soft_weights": torch.where(sampled, soft_weights, 1)}
        return super().loss(model, dense(batch, reading.logprobs) | weighted, **counts)

    def mechanism(self, model: torch.nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
        """Of the student's own samples: mean KL(q || p) a token, their tokens, and the share of repeated pairs."""
        kl = tokens = answers = pairs = repeated = 0.0
        for number, batch in enumerate(batches):
            rows = list(range(len(batch["problem_ids"])))
            made = self._sampled(model, batch, rows, [rollouts.draw(number, 0, row) for row in rows], 0)
            reading = self.teacher.read(made["problem_ids"], made["labels"])
            kl += float(super().loss(model, dense(made, reading.logprobs)).soft.sum())
            for row in made["labels"]:
                text = row[row != IGNORED].tolist()
                found = list(itertools.pairwise(text))
                tokens, answers, pairs = tokens + len(text), answers + 1, pairs + len(found)
                repeated += len(found) - len(set(found))
        if not answers:
            return {}
        means = {"KL to teacher": kl / tokens, "tokens": tokens / answers}
        return means | {"repeated pairs": repeated / max(pairs, 1)}


def to_come(rewards: Tensor, counted: Tensor, *, normalised: bool) -> Tensor:
    """R_{t+1}: the sum or, `normalised`, the mean of the rewards at later positions, [rows, n]; 0 at the last one.

    Args:
        rewards: log p(y_t) - log q(y_t) in nats, [rows, n]; 0 where padded.
        counted: which positions are none of padding, [rows, n]; padding is on the right.
    """
    later = torch.nn.functional.pad(rewards.flip(-1).cumsum(-1).flip(-1)[..., 1:], (0, 1))
    if not normalised:
        return later
    left = counted.sum(-1, keepdim=True) - 1 - torch.arange(counted.shape[-1], device=counted.device)
    return later / left.clamp(min=1)
