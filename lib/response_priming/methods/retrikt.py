"""RetriKT-style retrieval (arXiv 2310.15594): the student reads a solved problem of a knowledge store before its own.

The store is written by the teacher from training problems (see `knowledge`). The entry whose question is nearest by
BM25 is put before the student's question as a solved example, in training and in the test. An entry that repeats the
problem itself is never given, or copying it would be all that there is to learn.

This is a reconstruction from the abstract and a figure's caption. The published models, reward, retriever's loss, sizes
and tables were not to be had, so none of its numbers is claimed. Its small models learn to retrieve; here nothing of
the retrieval is trained.
"""

import random
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from response_priming import models, problems, prompts
from response_priming.methods import steps
from response_priming.methods.knowledge import Informed, written
from response_priming.methods.leaks import leaks
from response_priming.problems import Problem

MATCHED = 0.1  # how far the length of a random entry may be from that of the nearest, as a share


class RetriKT(Informed):
    """RetriKT: an entry of the knowledge store as context, in training and in the test."""

    title: ClassVar[str] = "RetriKT-style retrieval (example at test)"
    source: ClassVar[str] = "2310.15594"
    fidelity: ClassVar[Literal["exact", "reconstructed", "rule-only"]] = "reconstructed"
    # The entry needs room in every profile; it is a bound, and nothing is padded to it.
    base: ClassVar[Mapping[str, Any]] = {"train_tokens": 2048}
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "random-entry": {"context": "random"},
        "no-entry": {"context": "none"},
        "undistilled": {"trained": False},
    }
    context: Literal["retrieved", "random", "none"] = Field(
        "retrieved", description="what the student reads first; random: an entry as long as the retrieved one"
    )
    trained: bool = Field(True, description="the student is distilled; else it is asked as it is")

    _given: dict[str, Problem | None] = PrivateAttr(default_factory=dict)

    def prepare(self) -> list[Path]:
        """See `Method.prepare`."""
        return [] if self.context == "none" else super().prepare()

    def prompt(self, problem: Problem) -> list[dict[str, str]]:
        """See `Method.prompt`; the entry goes before it as a question that was answered."""
        entry = None if self.context == "none" else self.given(problem)
        return prompts.messages(
            problem.question, system_prompt=self.run.system_prompt, examples=[entry] if entry else []
        )

    def given(self, problem: Problem) -> Problem | None:
        """The entry that a problem is asked with; None where all entries repeat it.

        A random one depends on the run's seed and the problem. Where none is within a tenth of the length of the
        retrieved one, it is the nearest in length.
        """
        if problem.id not in self._given:
            repeats = set(leaks(self.entries, [problem]))
            order = np.argsort(-self.scores(problem.question), kind="stable").tolist()
            order = [place for place in order if self.entries[place].id not in repeats]
            if self.context == "random" and len(order) > 1:
                far = {place: abs(self.lengths[place] - self.lengths[order[0]]) for place in sorted(order[1:])}
                fit = [place for place in far if far[place] <= MATCHED * self.lengths[order[0]]]
                fit = fit or [min(far, key=lambda place: far[place])]
                order = [random.Random(f"{self.run.seed}-{problem.id}").choice(fit)]
            self._given[problem.id] = self.entries[order[0]] if order else None
        return self._given[problem.id]

    def scores(self, question: str) -> NDArray[np.float64]:
        """BM25 of each entry's question, [entries]; Lucene's, so without the factor k1 + 1; k1 = 1.5, b = 0.75."""
        known = [word for word in problems.plain(question).split() if word in self._index.vocab_dict]
        return np.asarray(self._index.get_scores(known) if known else np.zeros(len(self.entries)))

    @cached_property
    def _index(self) -> bm25s.BM25:
        index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64")
        index.index([problems.plain(entry.question).split() for entry in self.entries], show_progress=False)
        return index

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each entry."""
        tokenizer = models.tokenizer(self.run.student, self.run.student_revision)
        return [len(prompts.encode_plain(tokenizer, written(entry))) for entry in self.entries]

    def mechanism(
        self,
        model: torch.nn.Module,  # noqa: ARG002
        batches: Iterable[Mapping[str, Any]],  # noqa: ARG002
    ) -> dict[str, float]:
        """The share of test problems whose entry has their operations, in their order, and that of all pairs."""
        if self.context == "none":
            return {}
        written_ones = [steps.operations(entry.solution)[1] for entry in self.entries]
        same, known = list[bool](), list[float]()
        for problem in problems.load(self.run, "test", self.run.n_test, seed=self.run.seed):
            wanted, entry = steps.operations(problem.solution)[1], self.given(problem)
            same.append(entry is not None and steps.operations(entry.solution)[1] == wanted)
            known.append(written_ones.count(wanted) / len(written_ones))
        return {"same operations": float(np.mean(same)), "of all pairs": float(np.mean(known))}
