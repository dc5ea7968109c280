"""ELAD-style active distillation (arXiv 2402.13098): problems by the student's uncertainty over its steps, corrected.

The student answers each problem that is left, greedily, in steps s_1 to s_m: lines and sentences. With H_j the entropy
in nats of the final answers of K samples that go on behind s_1 ... s_j,

    U = mean of H_j over j = 0 ... m - 1

(behind the last step nothing is left to draw). In each of R rounds the student of the round before chooses equally many
problems, those of the highest U. Where its text is wrong, the teacher goes on behind the steps before the first wrong
one: the first whose arithmetic is wrong; or, where only the answer is, the first behind which the teacher no longer
reaches the right one. A text with nothing wrong stays. The teacher then reads each whole text behind its own prompt, so
that there are distributions at the kept tokens, too. A correction that fails has taken its place in the budget, and
trains if any response of the study with a wrong answer does (`generate.keep_right`).

Each round's student begins undistilled and is trained on all that is there, for the steps of every row: the last one
has seen as many as any other row's student, and those of the rounds before it are a cost.

This is a reconstruction from the abstract and a review. Scores, prompts, rounds, budgets and tables of the paper were
not to be had, and none of its numbers is claimed.
"""

import functools
import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.stats import entropy

from response_priming import artifacts, engines, generate, params, problems, progress, prompts, provenance, stats
from response_priming.errors import InputError
from response_priming.extraction import RULES, number
from response_priming.methods import steps
from response_priming.methods.base import Method, note
from response_priming.methods.leaks import leaks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Answer(NamedTuple):
    """A student's response, and how many of its tokens stand before each of its steps: 0 before the first."""

    response: engines.Response
    begins: list[int]


class Elad(Method):
    """Active distillation: the student chooses the problems, and the teacher corrects its steps."""

    title: ClassVar[str] = "ELAD-style active distillation"
    source: ClassVar[str] = "2402.13098"
    fidelity: ClassVar[Literal["exact", "reconstructed", "rule-only"]] = "reconstructed"
    writes: ClassVar[bool] = True
    live: ClassVar[bool] = True
    controls: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "random": {"choose": "random"},
        "no-correction": {"correct": False},
        "answer": {"choose": "answer"},
    }
    choose: Literal["steps", "random", "answer"] = Field(
        "steps", description="highest U; a random draw; or the least mean log-probability of the whole answer"
    )
    correct: bool = Field(True, description="the teacher corrects the student's text; else it writes its own")
    budget: float = Field(0.5, gt=0, description="share of the problems that is taken in all rounds together")
    samples: int = Field(4, ge=2, description="samples behind each beginning of an answer")
    of: int = Field(3, ge=1, description="rounds")
    round: int = Field(3, ge=1, description="which of them this is")

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """See `Method.rounds`."""
        return [{"round": number} for number in range(1, self.of)]

    def prepare(self) -> list[Path]:
        """Write the store: that of the round before, and the texts of the problems that its student chooses.

        Raises:
            InputError: the rounds take more problems than there are; the teacher's tokens are not the student's; the
                filters drop all texts.
        """
        run, live, pool = self.run, self.asking, self.pool
        assert run.store is not None
        if self.count * self.of > len(pool):
            raise InputError(
                f"elad.budget = {self.budget:g}: {self.count * self.of} problems in {self.of} rounds, and there are "
                f"{len(pool)} to choose from; allowed: no more than these"
            )
        generate.check_tokens(live.model_copy(update={"signal": "tokens"}))
        reads = [run.earlier.store, run.before] if run.earlier and run.earlier.store and run.before else []
        student = {"student_weights": provenance.weights(run.student, run.student_revision), "held_out": run.held_out}
        more = {"method": run.method, "n_test": run.n_test} | student
        folder = params.Folder(run.store, ["methods.elad", f"engines.{live.inside(live.engine)}"], reads, more)
        artifacts.made(run.store, artifacts.recipe(live, folder), self._write)
        if not generate.read(run.store, [])["kept"].any():
            raise InputError(f"{run.store}: generate's filters drop all its texts; allowed: keep_right = False")
        return []

    @property
    def asking(self) -> params.GenerateRun:
        """How the teacher is asked."""
        assert self.run.live is not None
        return self.run.live

    @functools.cached_property
    def pool(self) -> list[problems.Problem]:
        """The problems to choose from: those of train that are not held out."""
        asked = problems.load(self.run, "train", self.run.n_train, seed=self.run.seed)
        return asked[: len(asked) - round(self.run.held_out * len(asked))]

    @property
    def count(self) -> int:
        """Problems of a round."""
        return max(1, round(self.budget * len(self.pool) / self.of))

    def _write(self, folder: Path) -> None:
        run, live, before = self.run, self.asking, self.run.earlier.store if self.run.earlier else None
        taken = set(generate.read(before, ["problem_id"])["problem_id"]) if before else set[str]()
        left = [problem for problem in self.pool if problem.id not in taken]
        left = self.first(left, [0.0] * len(left)) if self.choose == "random" else left
        placed = (run.student, run.student_revision, run.dtype, run.device)
        setup = engines.Setup(*placed, student=run.before, batch=live.generate_batch)
        student = engines.open_engine("transformers", setup)
        answers = self.answers(student, left)
        given = [np.asarray(answer.response.token_logprobs, np.float64) for answer in answers]
        doubts = [-float(logprobs.mean()) for logprobs in given]
        if self.choose == "steps":
            doubts = self.uncertainty(student, left, answers)
        del student
        new, by_problem = self.first(left, doubts), {one.id: answer for one, answer in zip(left, answers, strict=True)}
        teacher = engines.open_engine(live.engine, engines.teacher_of(live))
        texts, reached = self.corrected(teacher, new, [by_problem[problem.id] for problem in new])
        self._store(folder, teacher, new, texts)
        numbers = {"corrections right": float(np.mean(reached))} if reached else {}
        if self.choose != "random":
            right = [self.right(one, by_problem[one.id].response.text) for one in left]
            numbers |= self.told(left, doubts, right)
            two = [one in new for one in left if two_step(one)]
            numbers |= {"two-step chosen": float(np.mean(two))} if two else {}
        held = [problem for problem in self.pool if problem.id in taken or problem in new]
        test = problems.load(run, "test", run.n_test, seed=run.seed)
        note(folder, self.spent, leaks=len(leaks(held, test)), numbers=numbers)

    def _store(
        self,
        folder: Path,
        teacher: engines.Engine,
        new: Sequence[problems.Problem],
        texts: Sequence[engines.Response],
    ) -> None:
        """Write the store: shards of the one before, and one of these texts with the teacher's distributions."""
        live, before = self.asking, self.run.earlier.store if self.run.earlier else None
        asked = [*map(generate.prompting(live, teacher.tokenizer), new)]
        read = [question + text.tokens[:-1] for question, text in zip(asked, texts, strict=True)]
        top_k = teacher.vocabulary if live.top_k == "all" else live.top_k
        signals = dict(teacher.score(read, top_k=top_k))
        self.spent["teacher_read"] += sum(map(len, read))
        rows = []
        for place, (problem, text) in enumerate(zip(new, texts, strict=True)):
            ids, logprobs, tails = (part[-len(text.tokens) :] for part in signals[place])
            signal = engines.pack(ids, logprobs, tails)
            given = engines.Response(text.tokens, text.text, text.finished, signal)
            rows.append(generate.Answered(problem.id, 0, "", len(asked[place]), given))
        shards = sorted(before.glob("shard-*")) if before else []
        for shard in shards:
            shutil.copy(shard, folder)
        first = sum(len(pd.read_parquet(shard, columns=["key"])) for shard in shards)
        shards.append(folder / generate.shard_name(first))
        generate.write_shard(shards[-1], rows, vocabulary=teacher.vocabulary, dense=live.top_k == "all")
        columns = ["problem_id", "sample", "finished", "text"]
        table = pd.concat([pd.read_parquet(shard, columns=columns) for shard in shards], ignore_index=True)
        right = {problem.id: problem.answer for problem in self.pool}
        selected = generate.select(table, right, live.model_copy(update={"samples": 1}))
        selected.to_parquet(folder / generate.KEPT, index=False)

    def right(self, problem: problems.Problem, text: str) -> bool:
        """Whether a text's answer is the problem's, by the rule of the responses (`answer_rule`)."""
        return RULES[self.asking.answer_rule].verdicts([text], [problem.answer])[0][1]

    # --- the choice ---

    def first(self, left: Sequence[problems.Problem], doubts: Sequence[float]) -> list[problems.Problem]:
        """The problems of the highest doubts, as many as a round takes, in their order; a draw decides between equal
        ones."""
        drawn = [random.Random(f"{self.run.seed}-{self.round}-{problem.id}").random() for problem in left]
        ranked = sorted(range(len(left)), key=lambda place: (-round(doubts[place], 9), drawn[place]))
        return [left[place] for place in sorted(ranked[: self.count])]

    def answers(self, student: engines.Engine, asked: Sequence[problems.Problem]) -> list[Answer]:
        """What the student answers, greedily."""
        given = self._respond(student, self._questions(student, asked), "answer", top_k=1)
        self.spent["student_generated"] += sum(len(one.tokens) for one in given)
        return [Answer(one, steps.begins(one.tokens, functools.partial(text_of, student.tokenizer))) for one in given]

    def uncertainty(
        self, student: engines.Engine, asked: Sequence[problems.Problem], answers: Sequence[Answer]
    ) -> list[float]:
        """U of each answer, in nats; that a sample gives no answer is an answer, too."""
        begun, read = list[list[int]](), list[list[int]]()
        for question, answer in zip(self._questions(student, asked), answers, strict=True):
            begun += [answer.response.tokens[:begin] for begin in answer.begins for _ in range(self.samples)]
            read += [question + tokens for tokens in begun[len(read) :]]
        drawn = self._respond(student, read, "sample", temperature=1.0)
        self.spent["student_generated"] += sum(len(one.tokens) for one in drawn)
        texts = [text_of(student.tokenizer, start + one.tokens) for start, one in zip(begun, drawn, strict=True)]
        said = RULES[self.asking.answer_rule].extract(texts)
        values = iter([one if one is None or number(one) is None else number(one) for one in said])
        found = []
        for answer in answers:
            counts = [Counter(next(values) for _ in range(self.samples)).values() for _ in answer.begins]
            found.append(float(np.mean([entropy([*some]) for some in counts])))
        return found

    def told(
        self, left: Sequence[problems.Problem], doubts: Sequence[float], right: Sequence[bool]
    ) -> dict[str, float]:
        """How well doubts tell wrong answers from right ones: of all, and of the problems of two steps or more.

        It is the probability that a wrong answer has the higher doubt, ties counting half.
        """
        found, by = dict[str, float](), np.array(doubts)
        two = [two_step(problem) for problem in left]
        for name, counted in (("AUROC", [True] * len(left)), ("AUROC two-step", two)):
            off, on = (by[np.array(counted) & (np.array(right) == side)] for side in (False, True))
            if len(off) and len(on):
                found[name] = float(stats.auroc(off, on))
        return found

    # --- the correction ---

    def corrected(
        self, teacher: engines.Engine, asked: Sequence[problems.Problem], answers: Sequence[Answer]
    ) -> tuple[list[engines.Response], list[bool]]:
        """A text for each problem, and of those that the teacher wrote or went on with, whether they are right."""
        live = self.asking
        tried = [self.kept(teacher, *pair) for pair in zip(asked, answers, strict=True)]
        begun = [answer.response.tokens[:begin] for answer, some in zip(answers, tried, strict=True) for begin in some]
        written = generate.prompting(live, teacher.tokenizer)
        questions = [written(problem) for problem, some in zip(asked, tried, strict=True) for _ in some]
        read = [question + tokens for question, tokens in zip(questions, begun, strict=True)]
        given = self._respond(teacher, read, "correction", temperature=live.temperature) if read else []
        self.spent["teacher_read"] += sum(map(len, read))
        self.spent["teacher_generated"] += sum(len(one.tokens) for one in given)
        whole = [tokens + one.tokens for tokens, one in zip(begun, given, strict=True)]
        joined = iter(
            engines.Response(tokens, text_of(teacher.tokenizer, tokens), one.finished)
            for tokens, one in zip(whole, given, strict=True)
        )
        texts, reached = [], []
        for problem, answer, some in zip(asked, answers, tried, strict=True):
            options = [next(joined) for _ in some]
            hits = [self.right(problem, option.text) for option in options]
            # The right answer is no longer reached behind the first of the later ones that fails: the one before it.
            last = next((place for place in range(1, len(hits)) if not hits[place]), len(hits)) - 1
            texts.append(options[last] if options else answer.response)
            reached += hits[last : last + 1] if options else []
        return texts, reached

    def kept(self, teacher: engines.Engine, problem: problems.Problem, answer: Answer) -> list[int]:
        """How many of the student's tokens the teacher keeps, or may keep; none where nothing is to be corrected."""
        if not self.correct:
            return [0]
        tokens = answer.response.tokens
        for begin, end in pairwise([*answer.begins, len(tokens)]):
            if not all(steps.check(text_of(teacher.tokenizer, tokens[begin:end]))):
                return [begin]
        return [] if self.right(problem, answer.response.text) else answer.begins

    def _questions(self, student: engines.Engine, asked: Sequence[problems.Problem]) -> list[list[int]]:
        return [prompts.encode(student.tokenizer, self.prompt(one), self.run.prompt_date) for one in asked]

    def _respond(
        self, engine: engines.Engine, read: Sequence[list[int]], unit: str, **how: Any
    ) -> list[engines.Response]:
        seed = random.Random(f"{self.run.seed}-{self.round}-{unit}").getrandbits(31)
        with progress.Bar(len(read), unit) as bar:
            given = engine.respond(read, max_tokens=self.asking.response_tokens, seed=seed, **how)
            found = dict(engines.counted(given, bar))
        return [found[place] for place in range(len(read))]


def text_of(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """What tokens say, without special ones."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def two_step(problem: problems.Problem) -> bool:
    """Whether a problem's solution takes two operations or more."""
    return len(steps.operations(problem.solution)[1]) > 1
