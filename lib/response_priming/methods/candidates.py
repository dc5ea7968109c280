"""Augmented data: problems that are made of others, by code and by a teacher, which then answers them.

| kind | what it is | whose text |
|---|---|---|
| number | a target problem with its numbers drawn anew | code's |
| span | a target problem with its end written anew, about the same numbers | the teacher's, from a drawn word on |
| source | a source problem's numbers, in a problem that begins as a target one | the teacher's, behind a number |

A teacher of 135 M parameters does not rewrite a text as it is told to: of ten sampled after six target problems,
three were about the wanted numbers. So it goes on greedily from a beginning, after some target problems, and what is
not about just these numbers is left out. Each question is then answered as it is, in the
prompt of all other responses, so no label is that of what it was made of.
"""

import collections
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from response_priming import engines, generate, prompts
from response_priming.methods import steps
from response_priming.methods.leaks import leaks
from response_priming.problems import Problem, plain

if TYPE_CHECKING:
    from response_priming import params

NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
WRITER, REQUEST = "You write short problems about the given numbers.", "Write a problem about "
SHOWN, LONGEST = 4, 48  # problems before a request, and tokens of a text


class Draft(NamedTuple):
    """A question in the making: it is to have these numbers, and begins with what the teacher is to go on from."""

    id: str
    numbers: tuple[str, ...]
    begun: str
    written: bool  # by code, to its end


def numbers(text: str) -> tuple[str, ...]:
    """The numbers of a text in their order, as they are written."""
    return tuple(NUMBER.findall(text))


def drafts(targets: Sequence[Problem], sources: Sequence[Problem], count: int, *, seed: int) -> Iterator[Draft]:
    """Half of `count` are `number`, a quarter `span`, both target by target, and as far as they go a quarter `source`;
    each draws from its seed and place."""
    pool = sorted({number for problem in [*targets, *sources] for number in numbers(problem.question)})
    for place in range(count - count // 2):
        question, choose = targets[place % len(targets)].question, random.Random(f"{seed}-number-{place}")
        text = NUMBER.sub(lambda _, choose=choose: choose.choice(pool), question)  # type: ignore[misc]
        yield Draft(f"number-{place}", numbers(text), text, written=True)
    for place in range(count // 4):
        question, choose = targets[place % len(targets)].question, random.Random(f"{seed}-span-{place}")
        yield Draft(f"span-{place}", numbers(question), beginning(question, choose.random() / 2), written=False)
    for place, source in enumerate(sources[: count // 4]):
        given, choose = iter(numbers(source.question)), random.Random(f"{seed}-source-{place}")
        begun = beginning(choose.choice(targets).question)
        text = NUMBER.sub(lambda match, given=given: next(given, match[0]), begun)  # type: ignore[misc]
        yield Draft(f"source-{place}", numbers(source.question), text, written=False)


def beginning(question: str, share: float = 0.0) -> str:
    """Such a share of a question's words, but up to the one behind its first number at least."""
    words = question.split(" ")
    first = next((place for place, word in enumerate(words) if NUMBER.search(word)), 0)
    return " ".join(words[: max(first + 2, round(share * len(words)))])


def request(draft: Draft, targets: Sequence[Problem], *, seed: int) -> list[dict[str, str]]:
    """Chat messages that ask the teacher for a draft's question, after some target problems, asked for in this way."""
    others = [one for one in targets if beginning(one.question) != beginning(draft.begun)] or list(targets)
    shown = random.Random(f"{seed}-{draft.id}").sample(others, min(SHOWN, len(others)))
    asked = [Problem(one.id, REQUEST + " and ".join(numbers(one.question)), one.question, "") for one in shown]
    return prompts.messages(REQUEST + " and ".join(draft.numbers), system_prompt=WRITER, examples=asked)


class Writer:
    """The teacher of a run, as it writes candidates and answers them; `spent` counts its tokens, `left_out` candidates.

    `left_out`: `unusable`, no new question about the wanted numbers; `leaks`, of the test's words or numbers.
    """

    def __init__(self, run: "params.GenerateRun", targets: Sequence[Problem], test: Sequence[Problem]) -> None:
        self.run, self.targets, self.test = run, targets, test
        self.engine = engines.open_engine(run.engine, engines.teacher_of(run))
        self.spent, self.left_out = collections.Counter[str](), collections.Counter[str]()

    def _ask(
        self, asked: list[list[int]], max_tokens: int, top_k: int, temperature: float
    ) -> Iterator[engines.Response]:
        settings = {"max_tokens": max_tokens, "top_k": top_k, "seed": self.run.seed}
        given = dict(self.engine.respond(asked, temperature=temperature, **settings)) if asked else {}
        self.spent.update(teacher_read=sum(map(len, asked)))
        self.spent.update(teacher_generated=sum(len(response.tokens) for response in given.values()))
        return (given[place] for place in range(len(asked)))

    def candidates(self, sources: Sequence[Problem], count: int) -> list[Problem]:
        """About `count` new problems without solutions, in a drawn order."""
        run, reader = self.run, self.engine.tokenizer
        wanted = list(drafts(self.targets, sources, count, seed=run.seed))
        asked = [
            prompts.encode(reader, request(draft, self.targets, seed=run.seed), run.prompt_date)
            + prompts.encode_plain(reader, draft.begun)
            for draft in wanted
            if not draft.written
        ]
        ends = self._ask(asked, LONGEST, 0, 0.0)
        texts = {draft: (draft.begun + ("" if draft.written else next(ends).text)).strip() for draft in wanted}
        known = {plain(problem.question) for problem in [*self.targets, *sources]}
        tested = {tuple(sorted(numbers(problem.question))) for problem in self.test} - {()}
        made = []
        for draft in random.Random(f"{run.seed}-order").sample(wanted, len(wanted)):
            problem = Problem(draft.id, texts[draft], "", "")
            usable = numbers(problem.question) == draft.numbers and problem.question.endswith("?")
            if not usable or "\n" in problem.question or plain(problem.question) in known:
                self.left_out["unusable"] += 1
            elif leaks([problem], self.test) or tuple(sorted(draft.numbers)) in tested:
                self.left_out["leaks"] += 1
            else:
                known.add(plain(problem.question))
                made.append(problem)
        return made

    def answered(self, asked: Sequence[Problem]) -> list[generate.Answered]:
        """The teacher's responses to problems, but to those candidates whose response calculates what the test does."""
        run, written = self.run, generate.prompting(self.run, self.engine.tokenizer)
        read, top_k = [written(problem) for problem in asked], self.engine.vocabulary
        top_k = top_k if run.top_k == "all" else run.top_k
        responses = list(self._ask(read, run.response_tokens, top_k, run.temperature))
        solved = [replace(one, solution=given.text) for one, given in zip(asked, responses, strict=True)]
        found = set(leaks(solved, self.test)) - {target.id for target in self.targets}
        self.left_out["leaks"] += len(found)
        return [
            generate.Answered(problem.id, 0, problem.id, len(tokens), response, problem.question)
            for problem, tokens, response in zip(asked, read, responses, strict=True)
            if problem.id not in found
        ]


def sound(question: str, response: str) -> bool:
    """Whether a response calculates with the numbers of its question, all of them, and each of its steps is right."""
    right, asked = steps.check(response), {str(Fraction(number.replace(",", ""))) for number in numbers(question)}
    return bool(right) and all(right) and asked <= set(steps.operations(response)[0])
