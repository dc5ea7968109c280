"""Training examples: what a student reads, the tokens it is to predict, and the teacher's distribution at each of them.

The problems at the end of the training split, `held_out` of them, are kept for validation, the same ones for every arm:
the teacher's responses to them where there is a teacher, and the data set's solutions for every arm.

Two alignments say which position of the student meets which label and which of the teacher's distributions.

`response`, the repaired method: the student reads the bare question and an answer; each token of the answer is
predicted from the position before it, where the teacher's distribution over the same token stands as well.

`published`: the procedure of the released code (github.com/alonso130r/knowledge-distillation, commit b869e93) for
Goyal et al. 2024. It departs from the repaired one in eight ways, each a name in `repairs` that undoes it:

| repair | released code, commit b869e93 |
|---|---|
| pairing | teacher signals are stored under "Question 1", "Question 2", ..., sorted as text, and taken by position |
| prefix-offset | teacher position t meets student position t, though the teacher's positions begin with the prefix |
| bos | the student's question and the labels begin with a beginning-of-sequence token, the teacher's prompt does not |
| eos | the labels do not end with the end-of-sequence token |
| teacher-answers | the teacher only reads prefix and question; labels are the data set's answer, signals the prompt's |
| positions | the student only reads the question; label t is scored at question position t, without a shift |
| template | the question is read as plain text, without the chat template of the evaluation |
| truncation | all is cut to 256 tokens, and scored positions to the shortest of question, labels and signal |

With all repairs `published` is `response`, so one code serves both.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedTokenizerBase

from response_priming import arms, artifacts, generate, models, problems, prompts
from response_priming.errors import InputError
from response_priming.methods.base import method_of
from response_priming.methods.losses import IGNORED

if TYPE_CHECKING:
    from response_priming import params

Example = dict[str, Any]
# What a place in a batch holds: one example, or a response and a solution.
Item = list[Example]
LONGEST_RELEASED = 256
# What responses and training must have in common; elsewhere a problem of the same name is another one.
SHARED = ("dataset", "data", "seed", "largest_operand", "two_step_share", "system_prompt", "prompt_date")
# What of a store is not its signal.
TEXTS = ("problem_id", "question", "tokens", "text")
# What of an example is padded to a batch.
KINDS: dict[str, Any] = {
    **dict.fromkeys(("input_ids", "attention_mask", "positions", "labels"), np.int64),
    "scored": np.bool_,
    **dict(zip(generate.SIGNAL, (np.int64, np.float32, np.float32), strict=True)),
}


class TrainingData(NamedTuple):
    """What to train on, and the held-out problems with their examples, by name of the validation curve."""

    items: "Items"
    held_out: list[problems.Problem]
    validation: dict[str, Subset[Example]]


def prepare(run: "params.DistillRun", tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    """The arm's training data.

    Raises:
        InputError: the responses are of other problems or of another tokenizer, or nothing is left to train on; see
            also `Examples`.
    """
    folder = run.store
    answered = generate.dataset(folder) if folder else None
    if folder and answered is not None:
        name, made = f"{folder.parent.name}/{folder.name}", artifacts.read(folder)["recipe"].get("parameters", {})
        wanted, row = run.model_dump() | {"data": problems.fingerprint(run)}, answered[0]
        for key in SHARED:
            if key in made and made[key] != wanted[key]:
                raise InputError(
                    f"{name}: made with {key} = {made[key]!r}, this run has {wanted[key]!r}: generate them anew"
                )
        # Engines differ in how they write the end of a response that was cut within a character.
        decoded = str(tokenizer.decode(row["tokens"].tolist(), skip_special_tokens=True))
        if "text" in row and run.signal == "tokens" and decoded.strip()[:20] != str(row["text"]).strip()[:20]:
            raise InputError(f"{name}: tokens of another tokenizer than that of the student {run.student!r}")
    examples = Examples(run, tokenizer, answered)
    gold = Examples(run.model_copy(update={"alignment": "response", "repairs": []}), tokenizer, None)
    asked = list(gold.asked.values())
    held_out = asked[len(asked) - round(run.held_out * len(asked)) :]
    names = {problem.id for problem in held_out}
    training = [place for place, name in enumerate(examples.order) if name not in names]
    if not training:
        raise InputError(f"distill.held_out = {run.held_out}: leaves none of {len(examples)} examples to train on")
    validation = {"gold": gold, "response": examples} if folder else {"gold": gold}
    aside = {
        curve: Subset(some, [place for place, name in enumerate(some.order) if name in names])
        for curve, some in validation.items()
    }
    items = Items(examples, training, gold if folder and run.hard_labels == "gold" else None)
    return TrainingData(items, held_out, {curve: some for curve, some in aside.items() if len(some)})


class Examples(Dataset[Example]):
    """Training examples, each made when it is asked for, so that memory does not grow with their number.

    An example is `problem_id`, `input_ids` (what the student reads), `positions` [n] (which of them are scored),
    `labels` [n] (the token wanted there, or `IGNORED`), and with a teacher `scored` [n] (whether its distribution
    counts there) and its signal there (see `engines.Signal`); of a dense store `top_logprobs` alone.

    Args:
        answered: what the arm's teacher gave, to problems of train or to what is in its column `question`, or None for
            the fine-tuned arm, whose labels are the data set's solutions without calculator marks.

    Raises:
        InputError: an example is longer than `train_tokens`, or a response's problem is in neither; or
            the arm is `shuffled` and there is one response only.
    """

    def __init__(
        self, run: "params.DistillRun", tokenizer: PreTrainedTokenizerBase, answered: datasets.Dataset | None
    ) -> None:
        self.run, self.tokenizer, self.answered = run, tokenizer, answered
        self.method, self.repaired = method_of(run), run.repaired
        self.ends = models.end_tokens(tokenizer, run.student, run.student_revision)
        problems.require_unleaked(run)
        self.asked = {p.id: p for p in problems.load(run, "train", run.n_train, seed=run.seed)}
        # Without the signal's columns, which are not to be read for a length.
        columns = [name for name in TEXTS if answered is not None and name in answered.column_names]
        self.texts = answered.select_columns(columns) if answered is not None else None
        self.order = list(map(str, self.texts["problem_id"])) if self.texts is not None else list(self.asked)
        if "question" in columns and self.texts is not None:
            questions = zip(self.order, self.texts["question"], strict=True)
            self.asked = {name: problems.Problem(name, text, "", "") for name, text in questions} | self.asked
        if unknown := next((name for name in self.order if name not in self.asked), None):
            raise InputError(f"responses/{run.arm}: problem {unknown} is not among the {run.n_train} of train")
        places = list(range(len(self.order)))
        self.answer_of = deal(len(places), run.seed) if run.arm == arms.SHUFFLED else places
        self.signal_of = self.answer_of if "pairing" in self.repaired else released_pairing(len(places))
        for index, name in enumerate(self.order if "truncation" in self.repaired else []):
            length = len(self._question(index)) + len(self._labels(index))
            if length > run.train_tokens:
                raise InputError(f"distill.train_tokens = {run.train_tokens}: problem {name} needs {length}")

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        question, labels = self._question(index), self._labels(index)
        signal = self._signal(index)
        read = question + labels[:-1] if "positions" in self.repaired else question
        hard = range(len(labels))
        soft = range(len(next(iter(signal.values()))) if signal else 0)
        if "truncation" not in self.repaired:
            read = read[:LONGEST_RELEASED]
            shortest = min(len(part) for part in (question, hard, *([soft] if signal else []), read))
            hard, soft = hard[:shortest], soft[:shortest]
        answer = len(question) - 1 if "positions" in self.repaired else 0
        label_at = {answer + place: labels[place] for place in hard}
        answered = answer if "teacher-answers" in self.repaired else 0
        signal_at = {answered + place: row for place, row in enumerate(soft)}
        positions = sorted(position for position in {*label_at, *signal_at} if position < len(read))
        example: Example = {
            "problem_id": self.order[index],
            "input_ids": read,
            "positions": positions,
            "labels": [label_at.get(position, IGNORED) for position in positions],
        }
        if not signal:
            return example
        rows = [signal_at.get(position, 0) for position in positions]
        return (
            example
            | {"scored": [position in signal_at for position in positions]}
            | {key: values[rows] for key, values in signal.items()}
        )

    def _question(self, index: int) -> list[int]:
        """What the student reads first."""
        problem = self.asked[self.order[index]]
        if "template" in self.repaired:
            tokens = prompts.encode(self.tokenizer, self.method.prompt(problem), self.run.prompt_date)
        else:
            tokens = prompts.encode_plain(self.tokenizer, problem.question)
        return self._begun(tokens)

    def _labels(self, index: int) -> list[int]:
        """The tokens that the student is to learn: the teacher's response, or else the data set's answer."""
        if self.texts is None or "teacher-answers" not in self.repaired:
            tokens = prompts.encode_response(self.tokenizer, self.asked[self.order[index]].worked)
        elif self.run.signal == "text":
            tokens = prompts.encode_response(self.tokenizer, self.texts[self.answer_of[index]]["text"])
        else:
            tokens = list(map(int, self.texts[self.answer_of[index]]["tokens"]))
        if "eos" not in self.repaired and tokens[-1] in self.ends:
            tokens = tokens[:-1]
        return self._begun(tokens)

    def _begun(self, tokens: list[int]) -> list[int]:
        """The tokens behind a beginning-of-sequence token, where the tokenizer has one and it is not there."""
        begin = self.tokenizer.bos_token_id
        if "bos" in self.repaired or begin is None or tokens[:1] == [begin]:
            return tokens
        return [int(begin), *tokens]

    def _signal(self, index: int) -> dict[str, NDArray[Any]]:
        """The teacher's distributions, [its tokens, ...] each; the store has them flat. A prefix's are passed over."""
        if self.answered is None or self.run.signal == "text":
            return {}
        row, begin = self.answered[self.signal_of[index]], 0
        if "prefix-offset" in self.repaired and "teacher-answers" not in self.repaired:
            question = self.asked[str(row["problem_id"])].question
            begin = len(row["tokens"]) - len(prompts.encode_plain(self.tokenizer, question))
        signal = {key: np.reshape(row[key], (len(row["tokens"]), -1))[begin:] for key in generate.SIGNAL if key in row}
        return signal | {key: values[:, 0] for key, values in signal.items() if key == "tail_logprobs"}


def released_pairing(count: int) -> list[int]:
    """Whose signal each problem gets: keys "Question 1" to "Question `count`" sorted as text, taken by position.

    Released code, commit b869e93: of its 2,638 problems one gets its own signal.
    """
    return sorted(range(count), key=lambda place: str(place + 1))


def deal(count: int, seed: int) -> list[int]:
    """Whose response each problem gets in the control `shuffled`: never its own, each exactly once."""
    if count < 2:
        raise InputError("arm 'shuffled': needs two responses or more, there is 1; a wrong problem's cannot be dealt")
    order = random.Random(seed).sample(range(count), count)
    given = dict(zip(order, order[1:] + order[:1], strict=True))
    return [given[place] for place in range(count)]


class Items(Dataset[Item]):
    """The training examples by place; with solutions, each response has its problem's as a second sequence.

    The response then teaches by its distributions alone, and the solution by its tokens.
    """

    def __init__(self, examples: Examples, places: Sequence[int], solutions: Examples | None) -> None:
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
        signal = {key: example[key] for key in generate.SIGNAL if key in example}
        unscored = {key: np.zeros((count, *values.shape[1:]), values.dtype) for key, values in signal.items()}
        return [
            example | {"labels": [IGNORED] * len(example["labels"])},
            solution | {"scored": [False] * count} | unscored,
        ]


def stream(items: Items, *, count: int, seed: int) -> Subset[Item]:
    """What all steps of a training are made of, in order: pass after pass over the items, each in an order of its own.

    The order hangs on the seed alone. So a step has the same items whatever the micro-batch and the number of processes
    are, and no step is cut short where a pass ends.
    """
    random = np.random.default_rng(seed)
    passes = [random.permutation(len(items)) for _ in range(math.ceil(count / len(items)))]
    return Subset(items, np.concatenate(passes)[:count].tolist())


def targets(batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Where a batch (see `collate`) has a hard target, and where a soft one, [batch, n] each."""
    hard: Tensor = batch["labels"] != IGNORED
    return hard, batch.get("scored", torch.zeros_like(hard))


def collate(batch: Sequence[Example], pad: int) -> dict[str, Any]:
    """A batch, padded on the right.

    Returns `input_ids` and `attention_mask` [batch, tokens]; `positions` [batch, n], 0 where padded; `labels` [batch,
    n], `IGNORED` where padded (never by token id: pad and end-of-sequence may be the same token); `problem_ids`
    [batch]; with a teacher `scored` [batch, n] and the signal, [batch, n, k] or [batch, n] each.
    """
    rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in batch]
    padded: dict[str, Any] = {"problem_ids": [row["problem_id"] for row in batch]}
    fills = {"input_ids": pad, "labels": IGNORED}
    for key, kind in KINDS.items():
        if key in rows[0]:
            tensors = [torch.from_numpy(np.asarray(row[key], kind)) for row in rows]
            padded[key] = pad_sequence(tensors, batch_first=True, padding_value=fills.get(key, 0))
    return padded
