"""Measured seconds, and what the stages of a profile take by them: the laws by which a small sample is scaled.

Seconds are of processors where a CPU runs the models, as in the runs' manifests, and by the clock on a GPU.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from response_priming import arms, params
from response_priming.machines.tokens import Texts

FREE_SHARE = 0.25  # of places: engines/transformers.py lets waiting prompts in where so many are free


@dataclass(frozen=True)
class Answering:
    """Seconds that a model takes as it answers prompts, and how long its responses were.

    A token of a beginning that all prompts share is read once. `lengths`: tokens of the sample's responses; None where
    the weights were not at hand, so that nobody knows.
    """

    fixed: float  # until it can answer, and to write what it answered
    shared: float  # to read a token of the shared beginning
    read: float  # to read another token of a prompt
    step: float  # a decoding step, however many rows advance
    row: float  # more of it for each row
    lengths: tuple[int, ...] | None = None

    def seconds(self, shared: float, read: float, lengths: Sequence[int], places: int) -> float:
        """Of reading prompts, `read` tokens each, and decoding responses of these lengths, so many at once."""
        steps, rows = decoded(lengths, places)
        return self.shared * shared + self.read * read * len(lengths) + self.step * steps + self.row * rows


@dataclass(frozen=True)
class Training:
    """Seconds of a training: of an optimiser step, of an example in a validation, and of all else of a student."""

    step: float
    example: float
    fixed: float


Part = TypeVar("Part", Answering, Training)


def extrapolated(few: Part, more: Part, factor: float) -> Part:
    """What a model with more layers takes, from two with few and with more of them: linear, and never less.

    Args:
        factor: layers beyond those of `few`, in units of those that `more` has beyond them.
    """
    pairs = {part.name: (getattr(few, part.name), getattr(more, part.name)) for part in fields(few)}
    seconds = {name: pair for name, pair in pairs.items() if isinstance(pair[0], float)}
    changed: Any = {name: max(two, one + factor * (two - one)) for name, (one, two) in seconds.items()}
    return replace(few, **changed)


@dataclass(frozen=True)
class Measured:
    """What was measured, on which machine, in words, and when.

    `teacher` and a training are None where they were not measured; `spread`: what is said of both sides of every
    number of seconds, as a share of it. `gpu`: its name in `cost.GPUS`; None: a CPU.
    """

    on: str
    when: str
    gpu: str | None
    spread: float
    notebook: float  # to start a notebook, and to import what it takes
    teacher: Answering | None
    students: dict[str, Answering]  # of arms that are not trained
    trainings: dict[str, Training]  # by arm

    def seconds(self, profile: params.Profile, stage: str) -> tuple[float, float] | None:
        """Of all notebooks of a stage, the least and the most; None where it was not measured."""
        laws = {"generate": self._generate, "distill": self._distill, "evaluate": self._evaluate}
        ends = laws[stage](profile, Texts.of(profile))
        return ends and (ends[0] * (1 - self.spread), ends[1] * (1 + self.spread))

    def written(self, profile: params.Profile, stage: str) -> tuple[float, float] | None:
        """Tokens that are decoded in a stage, the least and the most; None where nobody knows better."""
        texts, every = Texts.of(profile), list[tuple[float, float]]()
        if stage == "generate" and self.teacher:
            n = profile.problems.n_train * profile.generate.samples
            ends = self._responses(profile, texts)
            every = [(sum(repeated(ends[0], n)), sum(repeated(ends[1], n))) for _ in profile.strategies]
        elif stage == "evaluate":
            n = profile.problems.n_test
            for arm in profile.arms:
                low, high = (
                    len(_students(profile, arm)) * sum(repeated(end, n)) for end in self._answers(profile, arm, texts)
                )
                every.append((low, high))
        return (sum(low for low, _ in every), sum(high for _, high in every)) if every else None

    def _generate(self, profile: params.Profile, texts: Texts) -> tuple[float, float] | None:
        if not (found := self.teacher):
            return None
        asked, total = profile.generate, [0.0, 0.0]
        at_once = max(1, asked.generate_batch // asked.samples) * asked.samples  # a batch is a shard of the store
        for end, lengths in enumerate(self._responses(profile, texts)):
            every = repeated(lengths, profile.problems.n_train * asked.samples)
            batches = [every[first : first + at_once] for first in range(0, len(every), at_once)]
            answering = sum(found.seconds(0, texts.question, batch, asked.generate_batch) for batch in batches)
            for strategy in profile.strategies:
                shared = found.shared * texts.beginning(strategy, asked.worked_examples)
                total[end] += self.notebook + found.fixed + shared + answering
        return total[0], total[1]

    def _evaluate(self, profile: params.Profile, texts: Texts) -> tuple[float, float] | None:
        if not self.students:
            return None
        total = [0.0, 0.0]
        for arm in profile.arms:
            found = self.students[arm if arm in self.students else arms.UNDISTILLED]
            shared = texts.beginning(examples=profile.generate.worked_examples if arm == arms.SHOWN else 0)
            for end, lengths in enumerate(self._answers(profile, arm, texts)):
                every = repeated(lengths, profile.problems.n_test)
                one = found.seconds(shared, texts.question, every, profile.evaluate.evaluate_batch)
                total[end] += self.notebook + len(_students(profile, arm)) * (found.fixed + one)
        return total[0], total[1]

    def _responses(self, profile: params.Profile, texts: Texts) -> tuple[Sequence[int], Sequence[int]]:
        """Lengths of the teacher's responses, the shortest and the longest case."""
        budget, known = profile.generate.response_tokens, self.teacher.lengths if self.teacher else None
        return (known, known) if known else ((min(budget, round(texts.solution)),), (budget,))

    def _answers(self, profile: params.Profile, arm: str, texts: Texts) -> tuple[Sequence[int], Sequence[int]]:
        """Lengths of an arm's answers, shortest and longest: a trained student answers as it was taught."""
        budget, solution = profile.evaluate.answer_tokens, (round(texts.solution),)
        if arm in arms.UNTRAINED:
            known = self.students[arm].lengths
        elif taught := self.teacher and self.teacher.lengths:
            known = solution if arm == arms.FINE_TUNED else taught
        else:
            known = None
        low, high = (known, known) if known else (solution, (budget,))
        return [min(one, budget) for one in low], [min(one, budget) for one in high]

    def _distill(self, profile: params.Profile, texts: Texts) -> tuple[float, float] | None:  # noqa: ARG002
        total = 0.0
        for arm in profile.trained:
            if not (found := self.trainings.get(arm)):
                return None
            run = profile.distill_of(arm)
            held_out = round(run.held_out * profile.problems.n_train) * (1 if arm == arms.FINE_TUNED else 2)
            # Before the first step, at every so manieth, and after the last.
            validated = 1 + math.ceil(run.train_steps / run.evaluate_every)
            one = found.fixed + run.train_steps * found.step + validated * held_out * found.example
            total += self.notebook + len(profile.seeds) * one
        return total, total


def _students(profile: params.Profile, arm: str) -> list[int]:
    return profile.seeds[:1] if arm in arms.UNTRAINED else profile.seeds


def repeated(sample: Sequence[int], count: int) -> list[int]:
    """So many lengths that are spread as a sample's are."""
    return list(itertools.islice(itertools.cycle(sample), count))


def decoded(lengths: Sequence[int], places: int) -> tuple[int, int]:
    """Decoding steps of responses of these lengths, and the rows of all of them together.

    Its first token comes with reading a prompt. As engines/transformers.py does, prompts wait until a quarter of the
    places is free, and are then let in together.
    """
    waiting, active, steps, rows = [length - 1 for length in lengths], list[int](), 0, 0
    places = min(places, len(waiting))
    while waiting or active:
        free = places - len(active)
        if waiting and (free >= FREE_SHARE * places or not active):
            admitted, waiting = waiting[:free], waiting[free:]
            active = [left for left in active + admitted if left]
        else:
            steps, rows = steps + 1, rows + len(active)
            active = [left - 1 for left in active if left > 1]
    return steps, rows
