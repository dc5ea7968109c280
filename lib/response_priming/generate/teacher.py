"""Stage generate: the teacher responds to the training problems under one strategy's prefix.

Which of its responses train is up to optional filters and a vote, off by default; the store keeps every response.
"""

import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from response_priming import artifacts, engines, models, params, problems, progress, prompts
from response_priming.errors import InputError
from response_priming.extraction import RULES, number
from response_priming.generate.store import (
    KEPT,
    Answered,
    Stored,
    first_of,
    is_shard,
    read,
    shard_name,
    stored,
    taken,
    write_shard,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Parameters of the section that change no response, or change it through the prompt, which is in the key. Of a signal
# with more tokens at each position, fewer are taken.
NOT_IN_KEY = {"worked_examples", "samples", "top_k", "keep_finished", "keep_right", "answer_rule", *params.PLACEMENT}


def respond(run: params.GenerateRun) -> pd.DataFrame:
    """The strategy's responses (see `store.read`), generated unless they are there already.

    Prompts carry the prefix and worked examples, which come from the validation split. A run that was killed continues:
    a shard is one batch, and what is stored intact is kept wherever its keys are those of this run.

    Raises:
        InputError: the student cannot read the teacher's tokens, said before any model is loaded; a prompt is too long;
            the disk is full.
    """
    check_tokens(run)
    folder = run.folders[0]
    recipe = artifacts.recipe(run, folder)

    def write(partial: artifacts.Partial) -> None:
        problems.require_unleaked(run)
        asked = problems.load(run, "train", run.n_train, seed=run.seed)
        _generate(run, _Prompts(run, asked, recipe), partial)
        _select(run, asked, partial)

    return read(artifacts.made(folder.path, recipe, write, how=artifacts.resuming))


def check_tokens(run: params.GenerateRun) -> None:
    """`InputError` where a token-level signal is wanted and teacher and student do not share their token ids."""
    named = (run.teacher, run.teacher_revision), (run.student, run.student_revision)
    if run.signal == "text" or named[0] == named[1]:
        return
    teacher, student = (models.tokenizer(*one) for one in named)
    difference = prompts.first_difference(teacher, student)
    ends, known = (models.end_tokens(reader, *one) for reader, one in zip((teacher, student), named, strict=True))
    if unknown := [token for token in ends if token not in known]:
        difference = difference or f"it may end with token {unknown[0]}, which ends no answer of the student"
    if difference:
        raise InputError(
            f"generate.teacher = {run.teacher!r}: its tokens are not those of the student {run.student!r}: "
            f"{difference}; allowed: a teacher with the student's tokenizer, or distill.signal = 'text'"
        )


def prompting(run: params.GenerateRun, reader: "PreTrainedTokenizerBase") -> Callable[[problems.Problem], list[int]]:
    """What writes a problem as the run's teacher reads it, in tokens: worked examples, all under the prefix."""
    wanted, prefix = run.worked_examples, prompts.prefix_of(run.strategy)
    examples = problems.load(run, "validation", wanted, seed=run.seed) if wanted else []

    def written(problem: problems.Problem) -> list[int]:
        chat = prompts.messages(problem.question, system_prompt=run.system_prompt, prefix=prefix, examples=examples)
        return prompts.encode(reader, chat, run.prompt_date)

    return written


class _Prompt(NamedTuple):
    problem_id: str
    sample: int
    tokens: list[int]
    key: str


class _Prompts:
    """The run's prompts, made when they are needed, so that a large number of problems takes no memory."""

    def __init__(self, run: params.GenerateRun, asked: list[problems.Problem], recipe: dict[str, Any]) -> None:
        self.run, self.asked = run, asked
        self.tokenizer = models.tokenizer(run.teacher, run.teacher_revision)
        self.written = prompting(run, self.tokenizer)
        settings = run.model_dump(include=params.Generate.model_fields.keys() - NOT_IN_KEY) | {
            "engine": run.inside(run.engine),
            "model": recipe["parameters"]["teacher_weights"],
            "dtype": recipe["parameters"]["dtype"],
            "seed": run.seed if run.temperature else None,
            "version": recipe["version"],
        }
        self.settings = json.dumps(settings, sort_keys=True)

    def between(self, first: int, last: int) -> list[_Prompt]:
        """Every sample of the problems from one position to before another."""
        made = []
        for problem in self.asked[first:last]:
            tokens = self.written(problem)
            for sample in range(self.run.samples):
                key = hashlib.sha256(f"{self.settings}{tokens}{sample}".encode()).hexdigest()[:32]
                made.append(_Prompt(problem.id, sample, tokens, key))
        return made


def _generate(run: params.GenerateRun, wanted: _Prompts, partial: artifacts.Partial) -> None:
    """Write the shards that are missing; the teacher gives those responses that no earlier store has."""
    top_k, total = None if run.top_k == "all" else run.top_k, len(wanted.asked)
    done: dict[int, int] = {}
    for name in filter(is_shard, partial.outputs):
        keys = pd.read_parquet(partial.folder / name, columns=["key"])["key"].tolist()
        first, count = first_of(name), len(keys) // run.samples
        if keys == [prompt.key for prompt in wanted.between(first, first + count)]:
            done[first] = count
    partial.keep([shard_name(first) for first in done])
    missing = list(gaps(done, total, max(1, run.generate_batch // run.samples)))
    if not missing:
        return
    # Of a run beside the profile's, too, nothing is asked that the profile's own has been answered.
    places = [*artifacts.shelved(run.folders[0].path), run.build / run.place / run.strategy]
    with progress.Bar(total * run.samples, "response", done=sum(done.values()) * run.samples) as bar:
        shards = _Shards(
            run, wanted, partial, bar, stored([place for place in places if place != partial.folder], top_k)
        )
        asked = shards.requests(missing)
        if begun := next(asked, None):
            shards.engine = engines.open_engine(run.engine, engines.teacher_of(run))
            given = shards.engine.respond_to(itertools.chain([begun], asked))
            for number, index, response in engines.counted(given, bar):
                shards.take(number, index, response)


@dataclass
class _Batch:
    """A shard in the making: its first position, its prompts, those that are asked, and the responses known by key."""

    first: int
    prompts: list[_Prompt]
    asked: list[_Prompt]
    known: dict[str, engines.Response]
    answered: int = 0


class _Shards:
    """The shards that lack, a batch each: what the teacher is asked for them, and their writing as they are complete.

    `engine` is what is asked. What it has not answered yet is in `waiting`, by the number of the request.
    """

    def __init__(
        self, run: params.GenerateRun, wanted: _Prompts, partial: artifacts.Partial, bar: progress.Bar,
        before: Mapping[str, Stored],
    ) -> None:  # fmt: skip
        self.run, self.wanted, self.partial, self.bar, self.before = run, wanted, partial, bar, before
        self.vocabulary = models.vocabulary(wanted.tokenizer, models.config(run.teacher, run.teacher_revision))
        self.top_k = None if run.top_k == "all" else run.top_k
        self.engine: engines.Engine | None = None
        self.waiting: dict[int, _Batch] = {}

    def requests(self, missing: Sequence[tuple[int, int]]) -> Iterator[engines.Request]:
        """What is asked, batch by batch; of one that is all there already, nothing, and it is written."""
        numbers = itertools.count()
        for first, last in missing:
            asking = self.wanted.between(first, last)
            there = [prompt.key for prompt in asking if prompt.key in self.before]
            known = dict(zip(there, taken([self.before[key] for key in there], self.top_k), strict=True))
            batch = _Batch(first, asking, [prompt for prompt in asking if prompt.key not in known], known)
            self.bar.update(len(there))
            if batch.asked:
                self.waiting[next(numbers)] = batch
                yield engines.Request(
                    [prompt.tokens for prompt in batch.asked],
                    max_tokens=self.run.response_tokens,
                    top_k=self.top_k or self.vocabulary,
                    temperature=self.run.temperature,
                    # Another seed for every batch, and the same one where the batch is made again.
                    seed=int(batch.asked[0].key[:8], 16),
                )
            else:
                self._write(batch)

    def take(self, number: int, index: int, response: engines.Response) -> None:
        """A response to one of the requests; with the last one to it, its shard is written."""
        batch = self.waiting[number]
        batch.known[batch.asked[index].key] = response
        batch.answered += 1
        if batch.answered == len(batch.asked):
            self._write(self.waiting.pop(number))

    def _write(self, batch: _Batch) -> None:
        rows = [
            Answered(prompt.problem_id, prompt.sample, prompt.key, len(prompt.tokens), batch.known[prompt.key])
            for prompt in batch.prompts
        ]
        notes, names = self.partial.notes, {prompt.problem_id for prompt in batch.prompts}
        aside = [
            {"problem_id": prompt.problem_id, "sample": prompt.sample, "reason": reason}
            for prompt in batch.prompts
            if (reason := batch.known[prompt.key].failed)
        ]
        for one in aside:
            progress.say(f"{one['problem_id']}: set aside, the engine fails at it: {one['reason']}")
        # Those of the shard before, where it is made again, are no more.
        notes["set_aside"] = [one for one in notes.get("set_aside", []) if one["problem_id"] not in names] + aside
        if self.engine:
            notes["engine"] = self.engine.describe()
        notes["tokens_per_second"] = round(self.bar.speed, 1)
        dense = self.run.top_k == "all"
        write = functools.partial(write_shard, rows=rows, vocabulary=self.vocabulary, dense=dense)
        self.partial.put(shard_name(batch.first), write)


def gaps(stored: Mapping[int, int], total: int, size: int) -> Iterator[tuple[int, int]]:
    """What lacks of the positions from 0 to before `total`, as (first, after last), at most `size` at once.

    Args:
        stored: number of positions there are, by the first of them.
    """
    position = 0
    for start in sorted({*stored, total}):
        yield from ((first, min(first + size, start)) for first in range(position, start, size))
        position = start + stored.get(start, 0)


def _select(run: params.GenerateRun, asked: list[problems.Problem], partial: artifacts.Partial) -> None:
    """Write which responses train, and count them in the manifest."""
    columns = ["problem_id", "sample", "finished", "text"]
    answered = pd.concat(
        [pd.read_parquet(partial.folder / name, columns=columns) for name in sorted(partial.outputs)], ignore_index=True
    )
    aside = {(one["problem_id"], one["sample"]) for one in partial.notes.get("set_aside", [])}
    selected = select(answered, {problem.id: problem.answer for problem in asked}, run, aside)
    partial.put(KEPT, functools.partial(selected.to_parquet, index=False))
    partial.notes["counts"] = {
        "problems": selected["problem_id"].nunique(),
        "responses": len(selected),
        "finished": int(selected["finished"].sum()),
        "right": int(selected["right"].sum()),
        "kept": int(selected["kept"].sum()),
        "dropped": int((~selected["kept"]).sum()),
        "set_aside": len(aside),
    }


def select(
    answered: pd.DataFrame, right: Mapping[str, str], run: params.Generate, aside: Collection[tuple[str, int]] = ()
) -> pd.DataFrame:
    """One row a response: `problem_id`, `sample`, `finished`, `answer` (what the rule extracts), `right`, `kept`.

    The filters go first. Of what they leave, the vote keeps one response a problem where there are several samples:
    without a filter this is self-consistency (Wang et al. 2022, arXiv 2203.11171), with `keep_right` the first right
    response.

    Args:
        answered: `problem_id`, `sample`, `finished` and `text` of every response, a problem's samples in their order.
        right: the right answer by problem id.
        aside: problem and sample of those that the engine failed at, none of which trains.
    """
    answers = [right[name] for name in answered["problem_id"]]
    verdicts = RULES[run.answer_rule].verdicts(list(answered["text"]), answers)
    table = answered[["problem_id", "sample", "finished"]].assign(
        answer=pd.Series([extracted for extracted, _ in verdicts], answered.index, "str"),
        right=[is_right for _, is_right in verdicts],
    )
    pairs = zip(answered["problem_id"], answered["sample"], strict=True)
    there = pd.Series([pair not in aside for pair in pairs], answered.index)
    table["kept"] = there & (table["finished"] | (not run.keep_finished)) & (table["right"] | (not run.keep_right))
    if run.samples > 1:
        left = table[table["kept"]]
        winners = [rows.index[majority(rows["answer"].tolist())] for _, rows in left.groupby("problem_id")]
        table["kept"] = table.index.isin(winners)
    return table


def majority(answers: Sequence[object]) -> int:
    """Position of the first answer that equals the most frequent one; of equally frequent ones the earliest counts.

    Numbers are equal by value (see `extraction.number`), what else a rule extracts by its text. Missing answers do not
    vote; where all are missing, the first position is it.
    """
    values = [number(answer) if isinstance(answer, str) else None for answer in answers]
    votes = [answer if value is None else value for answer, value in zip(answers, values, strict=True)]
    counted = Counter(vote for vote in votes if isinstance(vote, str | Decimal)).most_common(1)
    return votes.index(counted[0][0]) if counted else 0
