"""Problems: a question, a worked solution and one numeric answer, from one of three sources behind `load`.

`procedural` makes seeded one- and two-step word problems in GSM8K's form. Its three splits share neither a story
template nor an operand pair, so a student cannot answer a test problem by recalling a training problem.
`gsm8k` reads GSM8K (Cobbe et al. 2021, arXiv 2110.14168) from the hub or from a folder of JSON lines, `local` whatever
such a folder holds; there the validation split is cut from the end of train, because GSM8K has none. `rows` reads any
JSON lines and CSV.
"""

import csv
import hashlib
import json
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
    `answer` is that as `extraction.right_answer` writes it."""

    id: str
    question: str
    solution: str
    answer: str

    @property
    def worked(self) -> str:
        """The solution as a person would write it: without calculator marks."""
        return CALCULATOR_MARK.sub("", self.solution)


def load(source: Problems, split: Split, limit: int, *, seed: int) -> list[Problem]:
    """The first `limit` problems of a split; of GSM8K's validation split, the last ones of train.

    Raises:
        InputError: a file is missing or malformed, or the split holds fewer problems.
    """
    if source.dataset == "procedural":
        return procedural(split, limit, seed=seed, largest=source.largest_operand, two_step_share=source.two_step_share)
    stem, origin = "test" if split == "test" else "train", source.data_dir or "openai/gsm8k"
    records = _records(source, stem)
    if limit > len(records):
        raise InputError(f"{origin}: {stem} holds {len(records)} problems, {limit} asked for")
    numbered = [_gsm8k_problem(f"{stem}-{number}", record, origin) for number, record in enumerate(records)]
    if split == "test":
        return numbered[:limit]
    return numbered[len(numbered) - limit :] if split == "validation" else numbered[:limit]


def require_unleaked(source: Problems) -> None:
    """`InputError` where a question of test is in train, too: before anything learns from it."""
    if source.dataset == "procedural":
        return
    train, test = ([_words(record["question"]) for record in _records(source, stem)] for stem in ("train", "test"))
    tested = set(test)
    if both := [number for number, question in enumerate(train) if question in tested]:
        raise InputError(
            f"{source.data_dir or 'openai/gsm8k'}: train-{both[0]} is in test, too, as are {len(both) - 1} others of "
            "train: take them out"
        )


def _records(source: Problems, stem: str) -> list[dict[str, str]]:
    if source.data_dir:
        return read_jsonl(paths.given(source.data_dir) / f"{stem}.jsonl")
    return _from_hub(stem, source.dataset_revision)


def _words(text: str) -> str:
    """A text but for capitals, punctuation and blanks, in which copies differ."""
    return " ".join(re.findall(r"\w+", text.casefold()))


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
        return "procedural"
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
    return Problem(problem_id, record["question"].strip(), solution, answer)


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """GSM8K records of one file; every row must be an object with text in its fields `question` and `answer`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; the folder holds train.jsonl and test.jsonl")
    records = []
    for where, record in rows(path):
        for field in ("question", "answer"):
            if not isinstance(record.get(field), str):
                raise InputError(f"{where}: needs a string field {field!r}, as GSM8K's records have")
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
    """One addition told in words: `{n}` is a person, `{t}` a thing, `{x}` and `{y}` the numbers."""

    text: str
    ask: str


NAMES = ("Ana", "Ben", "Dan", "Eva", "Jack", "Kate", "Leo", "Mia", "Sam", "Tom")
THINGS = ("apples", "books", "cards", "coins", "eggs", "flowers", "pencils", "shells", "stamps", "toys")

# Additions only: asked to choose between adding and subtracting, a model of this size fails at the choice before it
# comes to the arithmetic. Each split has stories of its own, so a test story was never seen in training.
STORIES: dict[Split, tuple[Story, ...]] = {
    "train": (
        Story("{n} has {x} {t} and gets {y} more {t}.", "How many {t} does {n} have now?"),
        Story("{n} buys {x} {t} on Monday and {y} {t} on Tuesday.", "How many {t} does {n} buy in total?"),
        Story("{n} picks {x} {t}. Then {n} picks {y} {t} more.", "How many {t} does {n} pick in all?"),
        Story("{n} sells {x} {t} in the morning and {y} {t} at noon.", "How many {t} does {n} sell altogether?"),
    ),
    "validation": (
        Story("{n} packs {x} {t} and then {y} more {t}.", "How many {t} does {n} pack in total?"),
        Story("{n} draws {x} {t} today and {y} {t} tomorrow.", "How many {t} does {n} draw in all?"),
    ),
    "test": (
        Story("{n} finds {x} {t}. Then {n} finds {y} more.", "How many {t} does {n} find altogether?"),
        Story("{n} owns {x} {t} and makes {y} more {t}.", "How many {t} does {n} own then?"),
        Story("{n} counts {x} {t} on one shelf and {y} {t} on another.", "How many {t} does {n} count in total?"),
    ),
}

# What happens next in a two-step problem; `{y}` is the third number. The first story's question is then not asked.
SECOND_STEPS: dict[Split, tuple[Story, ...]] = {
    "train": (
        Story("Later {y} more {t} are added.", "How many {t} are there in the end?"),
        Story("A friend brings {y} other {t}.", "How many {t} does that make?"),
    ),
    "validation": (Story("The next day {y} new {t} arrive.", "How many {t} are there now?"),),
    "test": (Story("After that {y} further {t} turn up.", "How many {t} are there after that?"),),
}


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
        story = STORIES[split][done % len(STORIES[split])]
        second = choose.choice(SECOND_STEPS[split]) if _has_two_steps(done, two_step_share) else None
        problem = _make(f"{split}-{done}", choose, story, choose.choice(pairs), second, largest)
        problems.setdefault(problem.question, problem)
    raise InputError(f"problems.largest_operand = {largest}: too small for {limit} different {split} problems")


def _has_two_steps(place: int, share: float) -> bool:
    return int((place + 1) * share) > int(place * share)


def require_enough(split: Split, limit: int, pairs: int, *, largest: int, two_step_share: float) -> None:
    """`InputError` where the words and numbers of a story make fewer different problems than are asked of it."""
    one_step = len(NAMES) * len(THINGS) * pairs
    two_steps = one_step * len(SECOND_STEPS[split]) * (largest - 1)
    asked = Counter((place % len(STORIES[split]), _has_two_steps(place, two_step_share)) for place in range(limit))
    if any(count > (two_steps if longer else one_step) for (_, longer), count in asked.items()):
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
    problem_id: str, choose: random.Random, story: Story, pair: tuple[int, int], second: Story | None, largest: int
) -> Problem:
    words = {"n": choose.choice(NAMES), "t": choose.choice(THINGS)}
    question, ask = story.text.format(**words, x=pair[0], y=pair[1]), story.ask
    total, steps = _add(*pair)
    if second:
        more = choose.randint(2, largest)
        question += " " + second.text.format(**words, y=more)
        total, step = _add(total, more)
        steps, ask = f"{steps}\n{step}", second.ask
    return Problem(problem_id, f"{question} {ask.format(**words)}", f"{steps}\n#### {total}", str(total))


def _add(x: int, y: int) -> tuple[int, str]:
    return x + y, f"{x} + {y} = <<{x}+{y}={x + y}>>{x + y}"
