"""What a student trains on, in which order, and what it is validated on.

The problems at the end of the training split, `held_out` of them, are kept for validation, the same ones for every arm:
the teacher's responses to them where there is a teacher, and the data set's solutions for every arm.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedTokenizerBase

from response_priming import artifacts, params, problems
from response_priming.errors import InputError
from response_priming.generate import store
from response_priming.methods import alignment, losses

# What a place in a batch holds: one example, or a response and a solution.
Item = list[alignment.Example]
# What responses and training must have in common; elsewhere a problem of the same name is another one.
SHARED = ("dataset", "data", "seed", "largest_operand", "two_step_share", "system_prompt")


class Curriculum(NamedTuple):
    """What to train on, and the held-out problems with their examples, by name of the validation curve."""

    items: "Items"
    held_out: list[problems.Problem]
    validation: dict[str, Subset[alignment.Example]]


def prepare(run: params.DistillRun, tokenizer: PreTrainedTokenizerBase) -> Curriculum:
    """The arm's curriculum.

    Raises:
        InputError: the responses are of other problems or of another tokenizer, or nothing is left to train on; see
            also `alignment.build_examples`.
    """
    folder = alignment.store(run)
    answered = store.dataset(folder) if folder else None
    if folder and answered is not None:
        _refuse_foreign(run, tokenizer, folder, answered[0])
    examples = alignment.build_examples(run, tokenizer, answered)
    aligned = run.model_copy(update={"alignment": "response", "repairs": []})
    gold = alignment.build_examples(aligned, tokenizer, None)
    asked = problems.load(run, "train", run.n_train, seed=run.seed)
    held_out = asked[len(asked) - round(run.held_out * len(asked)) :]
    names = {problem.id for problem in held_out}
    training, kept = _split(examples.order, names)
    if not training:
        raise InputError(f"distill.held_out = {run.held_out}: leaves none of {len(examples)} examples to train on")
    validation = {
        "gold": Subset(gold, _split(gold.order, names)[1]),
        "response": Subset(examples, kept if folder else []),
    }
    solutions = gold if folder and run.hard_labels == "gold" else None
    return Curriculum(
        Items(examples, training, solutions), held_out, {name: part for name, part in validation.items() if len(part)}
    )


def _split(order: Sequence[str], held_out: set[str]) -> tuple[list[int], list[int]]:
    """The places of training examples and of held-out ones."""
    places = range(len(order))
    return [i for i in places if order[i] not in held_out], [i for i in places if order[i] in held_out]


def _refuse_foreign(
    run: params.DistillRun, tokenizer: PreTrainedTokenizerBase, folder: Path, row: dict[str, Any]
) -> None:
    name = f"{folder.parent.name}/{folder.name}"
    made = artifacts.read(folder)["recipe"].get("parameters", {})
    wanted = run.model_dump() | {"data": problems.fingerprint(run)}
    for key in SHARED:
        if key in made and made[key] != wanted[key]:
            raise InputError(
                f"{name}: made with {key} = {made[key]!r}, this run has {wanted[key]!r}: generate them anew"
            )
    # Engines differ in how they write the end of a response that was cut within a character.
    decoded = str(tokenizer.decode(row["tokens"].tolist(), skip_special_tokens=True))
    if "text" in row and run.signal == "tokens" and decoded.strip()[:20] != str(row["text"]).strip()[:20]:
        raise InputError(f"{name}: tokens of another tokenizer than that of the student {run.student!r}")


class Items(Dataset[Item]):
    """The training examples by place; with solutions, each response has its problem's as a second sequence.

    The response then teaches by its distributions alone, and the solution by its tokens.
    """

    def __init__(
        self, examples: alignment.Examples, places: Sequence[int], solutions: alignment.Examples | None
    ) -> None:
        self.examples, self.places, self.solutions = examples, places, solutions
        self.solution_of = {name: place for place, name in enumerate(solutions.order)} if solutions else {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        example = self.examples[self.places[index]]
        if self.solutions is None:
            return [example]
        solution = self.solutions[self.solution_of[example["problem_id"]]]
        count = len(solution["labels"])
        signal = {key: example[key] for key in alignment.SIGNAL if key in example}
        unscored = {key: np.zeros((count, *values.shape[1:]), values.dtype) for key, values in signal.items()}
        return [
            example | {"labels": [losses.IGNORED] * len(example["labels"])},
            solution | {"scored": [False] * count} | unscored,
        ]


class Stream(Dataset[Item]):
    """What all steps of a training are made of, in order: pass after pass over the items, each in an order of its own.

    The order hangs on the seed alone. So a step has the same items whatever the micro-batch and the number of processes
    are, and no step is cut short where a pass ends.
    """

    def __init__(self, items: Items, *, count: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        passes = [random.permutation(len(items)) for _ in range(math.ceil(count / len(items)))]
        self.items, self.order = items, np.concatenate(passes)[:count]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Item:
        return self.items[int(self.order[index])]
