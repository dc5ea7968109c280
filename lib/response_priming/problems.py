"""Problems: a question, a worked solution and one numeric answer, from one of three sources behind `load`.

`procedural` makes seeded one- and two-step word problems in GSM8K's form. Its three splits share neither a story
template nor an operand pair, so a student cannot answer a test problem by recalling a training problem.
`gsm8k` reads GSM8K (Cobbe et al. 2021, arXiv 2110.14168) from the hub or from a folder of JSON lines, `local` whatever
such a folder holds, where a problem may name its `template`; there the validation split is cut from the end of train,
because GSM8K has none. `rows` reads any JSON lines and CSV.
"""

import csv
import functools
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from response_priming import paths
from response_priming.errors import InputError
from response_priming.extraction import right_answer
from response_priming.params.sections import Problems

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")
FORMATS = (".jsonl", ".csv")


@dataclass(frozen=True)
class Problem:
    """One problem. `solution` is in GSM8K's form: calculator marks `<<a+b=c>>` inside, `#### answer` at the end;
    `answer` is that as `extraction.right_answer` writes it; `template` names what the problem shares with others that
    differ in names and numbers, None where the source names none."""

    id: str
    question: str
    solution: str
    answer: str
    template: str | None = None

    @property
    def worked(self) -> str:
        """The solution as a person would write it: without calculator marks."""
        return CALCULATOR_MARK.sub("", self.solution)


def load(source: Problems, split: Split, limit: int, *, seed: int) -> list[Problem]:
    """The first `limit` problems of a split; of GSM8K's validation split, the last ones of train.

    Raises:
        InputError: a file is missing or malformed, the split holds fewer problems, or templates of test problems tell
            none of them from the others.
    """
    if source.dataset == "procedural":
        return procedural(split, limit, seed=seed, largest=source.largest_operand, two_step_share=source.two_step_share)
    stem, origin = "test" if split == "test" else "train", source.data_dir or "openai/gsm8k"
    records = _records(source, stem)
    if limit > len(records):
        raise InputError(f"{origin}: {stem} holds {len(records)} problems, {limit} asked for")
    numbered = [_gsm8k_problem(f"{stem}-{number}", record, origin) for number, record in enumerate(records)]
    if split == "test":
        _require_templates(numbered[: source.n_test], origin)
        return numbered[:limit]
    return numbered[len(numbered) - limit :] if split == "validation" else numbered[:limit]


def require_unleaked(source: Problems) -> None:
    """`InputError` where a question of test is in train, too, and `allow_leaked` is not said: before anything learns
    from it."""
    if source.dataset == "procedural" or source.allow_leaked:
        return
    train, test = ([plain(record["question"]) for record in _records(source, stem)] for stem in ("train", "test"))
    tested = set(test)
    if both := [number for number, question in enumerate(train) if question in tested]:
        raise InputError(
            f"{source.data_dir or 'openai/gsm8k'}: train-{both[0]} is in test, too, as are {len(both) - 1} others of "
            "train: take them out, or go on with problems.allow_leaked = true"
        )


def _records(source: Problems, stem: str) -> list[dict[str, str]]:
    if source.data_dir:
        return read_jsonl(paths.given(source.data_dir) / f"{stem}.jsonl")
    return _from_hub(stem, source.dataset_revision)


def plain(text: str) -> str:
    """The words of a text, without capitals, punctuation and blanks, in which copies of it differ."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _require_templates(asked: list[Problem], origin: str) -> None:
    """`InputError` where test problems have templates that no statistics can go by: of some alone, or all the same."""
    names = Counter(problem.template for problem in asked)
    if None in names and len(names) > 1:
        lacking = next(problem.id for problem in asked if problem.template is None)
        raise InputError(f"{origin}: {lacking}: has no template, and others have; allowed: all of them, or none")
    if None not in names and len(names) == 1 < len(asked):
        raise InputError(
            f"{origin}: template = {asked[0].template!r} in all {len(asked)} test problems; allowed: two or more, for "
            "intervals over templates, or none"
        )


def some(source: Problems, split: Split, limit: int, *, seed: int) -> list[Problem]:
    """What `load` gives, but of procedural problems, whose lengths hardly differ, a hundred at most; at once.

    Raises:
        InputError: as `load`.
    """
    if source.dataset == "procedural":
        pairs = len(operand_pairs(split, seed=seed, largest=source.largest_operand))
        require_enough(split, limit, pairs, largest=source.largest_operand, two_step_share=source.two_step_share)
        limit = min(limit, 100)
    return load(source, split, limit, seed=seed)


def fingerprint(source: Problems) -> str:
    """What identifies the data in a recipe: digests of local files, the hub's revision, or the generator itself."""
    if source.dataset == "procedural":
        return f"procedural {GENERATOR}, stories {hashlib.sha256(STORIES.read_bytes()).hexdigest()[:16]}"
    if not source.data_dir:
        return f"openai/gsm8k@{source.dataset_revision}"
    files = [paths.given(source.data_dir) / f"{stem}.jsonl" for stem in ("train", "test")]
    return " ".join(hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in files if file.exists())


# --- GSM8K ---


def _gsm8k_problem(problem_id: str, record: dict[str, str], origin: str) -> Problem:
    solution = record["answer"].strip()
    answer = right_answer(solution) if "####" in solution else None
    if answer is None:
        raise InputError(f"{origin}: {problem_id}: answer does not end in `#### NUMBER`: {solution[-40:]!r}")
    return Problem(problem_id, record["question"].strip(), solution, answer, record.get("template"))


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """GSM8K records of one file; every row must be an object with text in its fields `question` and `answer`, and in
    `template`, if there."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; the folder holds train.jsonl and test.jsonl")
    records = []
    for where, record in rows(path):
        for field in ("question", "answer"):
            if not isinstance(record.get(field), str):
                raise InputError(f"{where}: needs a string field {field!r}, as GSM8K's records have")
        if not isinstance(record.get("template", ""), str):
            raise InputError(f"{where}: template = {record['template']!r}: must be text, or left out")
        records.append(record)
    if not records:
        raise InputError(f"{path}: empty; expected one GSM8K record a line")
    return records


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a JSON-lines or CSV file in UTF-8, each with its place in the file: path and row number, 1 is the first.

    Blank lines are no rows, and a byte order mark is no text. A JSON number becomes a `Decimal`, with all its digits,
    and half of a surrogate pair, which JSON can write and nobody else can read, U+FFFD. What a CSV row lacks is None.

    Raises:
        InputError: another extension; not readable; not UTF-8; a row that is no JSON object or has too many fields.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: extension {path.suffix!r}: allowed: {', '.join(FORMATS)}")
    csv.field_size_limit(2**31 - 1)  # the default is 128 KiB
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            # Not by `splitlines`: a JSON string may hold line separators other than a line feed.
            for row in csv.DictReader(lines, strict=True) if path.suffix == ".csv" else filter(str.strip, lines):
                number += 1
                where = f"{path}: row {number}"
                if isinstance(row, str):
                    line, row = row, json.loads(row, parse_int=Decimal, parse_float=Decimal, object_pairs_hook=_whole)
                    if not isinstance(row, dict):
                        raise InputError(f"{where}: must be a JSON object, is {line.strip()[:60]!r}")
                elif None in row:
                    raise InputError(f"{where}: more fields than columns: {row[None]}")
                yield where, row
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg}): {error.doc.strip()[:60]!r}") from None
    except (RecursionError, InvalidOperation):
        raise InputError(f"{where}: cannot be read: brackets too deep, or an exponent too large") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error.strerror if isinstance(error, OSError) else error}") from None


def _whole(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without half surrogates in its keys and texts."""
    half = re.compile("[\ud800-\udfff]")
    return {half.sub("\ufffd", key): half.sub("\ufffd", text) if isinstance(text, str) else text for key, text in pairs}


def _from_hub(stem: str, revision: str) -> list[dict[str, str]]:
    from datasets import load_dataset

    try:
        return list(load_dataset("openai/gsm8k", "main", split=stem, revision=revision))
    except (ConnectionError, OSError) as error:
        raise InputError(
            f"openai/gsm8k: cannot be fetched from the hub ({type(error).__name__}); set GSM8K_DIR to a folder with "
            "train.jsonl and test.jsonl instead"
        ) from None


# --- procedural problems ---


@dataclass(frozen=True)
class Story:
    """Two additions in a row told in words, the second of which (`then`) may be left out. `{n}` and `{m}` are persons,
    `{t}` things, `{x}`, `{y}` and `{z}` the numbers."""

    name: str
    text: str
    then: str
    ask: str

    def words(self, *, longer: bool) -> str:
        """The question that it makes, of two steps where it is the longer one."""
        return " ".join((self.text, self.then, self.ask) if longer else (self.text, self.ask))


# Of what is made of the same stories; raised where a change of the code changes the problems.
GENERATOR = 2
STORIES = paths.PARAMS / "stories.jsonl"
NAMES = (
    "Amy", "Ana", "Ben", "Bob", "Clara", "Dan", "Emma", "Eva", "Finn", "Grace", "Henry", "Ivy", "Jack", "Kate", "Leo",
    "Lucy", "Max", "Mia", "Nina", "Omar", "Paul", "Ruth", "Sam", "Tom"
)  # fmt: skip
THINGS = (
    "apples", "books", "bottles", "buttons", "candles", "cards", "coins", "cups", "eggs", "flowers", "keys", "lemons",
    "marbles", "nuts", "oranges", "pears", "pencils", "plates", "ribbons", "shells", "spoons", "stamps", "stickers",
    "toys"
)  # fmt: skip


@functools.cache
def stories(split: Split) -> tuple[Story, ...]:
    """A split's stories, of params/stories.jsonl.

    Additions only: asked to choose between adding and subtracting, a model of this size fails at the choice before it
    comes to the arithmetic. Each split has stories of its own, so a test story was never seen in training.
    """
    own = [row for _, row in rows(STORIES) if row["split"] == split]
    return tuple(
        Story(f"{split}-story-{number}", row["text"], row["then"], row["ask"]) for number, row in enumerate(own)
    )


def procedural(split: Split, limit: int, *, seed: int, largest: int, two_step_share: float) -> list[Problem]:
    """`limit` different problems with operands from 2 to `largest`; stories take turns, and so do one and two steps."""
    pairs = operand_pairs(split, seed=seed, largest=largest)
    require_enough(split, limit, len(pairs), largest=largest, two_step_share=two_step_share)
    choose = random.Random(f"{seed}-{split}")
    problems: dict[str, Problem] = {}
    for _ in range(100 * limit + 1):
        done = len(problems)
        if done == limit:
            return list(problems.values())
        story, longer = _turn(split, done, two_step_share)
        problem = _make(f"{split}-{done}", choose, story, choose.choice(pairs), choose.randint(2, largest), longer)
        problems.setdefault(problem.question, problem)
    raise InputError(f"problems.largest_operand = {largest}: too small for {limit} different {split} problems")


def _turn(split: Split, place: int, share: float) -> tuple[Story, bool]:
    """The story of the problem at a place, and whether it has two steps. Each round of stories begins with another one,
    so that two steps do not come to the same ones in every round."""
    own = stories(split)
    return own[(place + place // len(own)) % len(own)], int((place + 1) * share) > int(place * share)


def require_enough(split: Split, limit: int, pairs: int, *, largest: int, two_step_share: float) -> None:
    """`InputError` where the words and numbers of a story make fewer different problems than are asked of it."""
    asked = Counter(_turn(split, place, two_step_share) for place in range(limit))
    for (story, longer), count in asked.items():
        words = story.words(longer=longer)
        persons = math.perm(len(NAMES), ("{n}" in words) + ("{m}" in words))
        if count > persons * len(THINGS) * pairs * (largest - 1 if longer else 1):
            raise InputError(f"problems.largest_operand = {largest}: too small for {limit} different {split} problems")


def operand_pairs(split: Split, *, seed: int, largest: int) -> list[tuple[int, int]]:
    """The pairs that a split's first steps use: of every ten, seven train, one validation, two test. A pair and its
    mirror image belong to the same split."""
    pairs = [(x, y) for x in range(2, largest + 1) for y in range(2, x + 1)]
    random.Random(seed).shuffle(pairs)
    first, last = {"train": (0, 7), "validation": (7, 8), "test": (8, 10)}[split]
    own = [pair for number, pair in enumerate(pairs) if first <= number % 10 < last]
    return own + [(y, x) for x, y in own if x != y]


def _make(
    problem_id: str, choose: random.Random, story: Story, pair: tuple[int, int], more: int, longer: bool
) -> Problem:
    (n, m), (x, y) = choose.sample(NAMES, 2), pair
    question = story.words(longer=longer).format(n=n, m=m, t=choose.choice(THINGS), x=x, y=y, z=more)
    total, steps = _add(x, y)
    if longer:
        total, step = _add(total, more)
        steps = f"{steps}\n{step}"
    return Problem(problem_id, question, f"{steps}\n#### {total}", str(total), story.name)


def _add(x: int, y: int) -> tuple[int, str]:
    return x + y, f"{x} + {y} = <<{x}+{y}={x + y}>>{x + y}"
