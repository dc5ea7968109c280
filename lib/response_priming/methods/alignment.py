"""Alignment: which position of the student meets which label, and which of the teacher's distributions.

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

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from response_priming import params, problems, prompts
from response_priming.errors import InputError
from response_priming.methods import losses

Example = dict[str, Any]
SIGNAL = ("top_ids", "top_logprobs", "tail_logprobs")
KINDS = {"top_ids": np.int64, "top_logprobs": np.float32, "tail_logprobs": np.float32}
LONGEST_RELEASED = 256


def store(run: params.DistillRun) -> Path | None:
    """The folder with what the arm's teacher gave: responses or signals over prompts; None without a teacher."""
    found = params.store_of(run.arm, run)
    return run.build / found if found else None


class Examples(Dataset[Example]):
    """Training examples, each made when it is asked for, so that memory does not grow with their number.

    An example is `problem_id`, `input_ids` (what the student reads), `positions` [n] (which of them are scored),
    `labels` [n] (the token wanted there, or `IGNORED`), and with a teacher `scored` [n] (whether its distribution
    counts there), `top_ids` and `top_logprobs` [n, k], `tail_logprobs` [n]; of a dense store `top_logprobs` alone.
    """

    def __init__(
        self, run: params.DistillRun, tokenizer: PreTrainedTokenizerBase, answered: datasets.Dataset | None
    ) -> None:
        self.run, self.tokenizer, self.answered = run, tokenizer, answered
        self.repaired = run.repaired
        self.asked = {p.id: p for p in problems.load(run, "train", run.n_train, seed=run.seed)}
        # Without the signal's columns, which are not to be read for a length.
        self.texts = answered.select_columns(["problem_id", "tokens", "text"]) if answered is not None else None
        self.order = list(map(str, self.texts["problem_id"])) if self.texts is not None else list(self.asked)
        if unknown := next((name for name in self.order if name not in self.asked), None):
            raise InputError(f"responses/{run.arm}: problem {unknown} is not among the {run.n_train} of train")
        places = list(range(len(self.order)))
        self.answer_of = deal(len(places), run.seed) if run.arm == params.SHUFFLED else places
        self.signal_of = self.answer_of if "pairing" in self.repaired else released_pairing(len(places))
        self._refuse_long()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        question, labels = self._question(index), self._labels(index)
        signal = self._signal(index)
        read = question + labels[:-1] if "positions" in self.repaired else question
        hard = range(len(labels))
        soft = range(self._offset(index), len(next(iter(signal.values()))) if signal else 0)
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
            "labels": [label_at.get(position, losses.IGNORED) for position in positions],
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
        question = self.asked[self.order[index]].question
        if "template" in self.repaired:
            tokens = prompts.encode(self.tokenizer, prompts.bare(question, self.run.system_prompt))
        else:
            tokens = prompts.encode_plain(self.tokenizer, question)
        return self._begun(tokens)

    def _labels(self, index: int) -> list[int]:
        """The tokens that the student is to learn: the teacher's response, or else the data set's answer."""
        if self.texts is None or "teacher-answers" not in self.repaired:
            tokens = prompts.encode_response(self.tokenizer, self.asked[self.order[index]].worked)
        elif self.run.signal == "text":
            tokens = prompts.encode_response(self.tokenizer, self.texts[self.answer_of[index]]["text"])
        else:
            tokens = list(map(int, self.texts[self.answer_of[index]]["tokens"]))
        if "eos" not in self.repaired and tokens[-1] == self.tokenizer.eos_token_id:
            tokens = tokens[:-1]
        return self._begun(tokens)

    def _begun(self, tokens: list[int]) -> list[int]:
        """The tokens behind a beginning-of-sequence token, where the tokenizer has one and it is not there."""
        begin = self.tokenizer.bos_token_id
        if "bos" in self.repaired or begin is None or tokens[:1] == [begin]:
            return tokens
        return [int(begin), *tokens]

    def _signal(self, index: int) -> dict[str, NDArray[Any]]:
        """The teacher's distributions, [its tokens, ...] each; the store has them flat."""
        if self.answered is None or self.run.signal == "text":
            return {}
        row = self.answered[self.signal_of[index]]
        signal = {key: np.reshape(row[key], (len(row["tokens"]), -1)) for key in SIGNAL if key in row}
        return signal | {key: values[:, 0] for key, values in signal.items() if key == "tail_logprobs"}

    def _offset(self, index: int) -> int:
        """How many of the teacher's positions are passed over, because they are the prefix's."""
        if self.texts is None or "teacher-answers" in self.repaired or "prefix-offset" not in self.repaired:
            return 0
        row = self.texts[self.signal_of[index]]
        asked = prompts.encode_plain(self.tokenizer, self.asked[str(row["problem_id"])].question)
        return len(row["tokens"]) - len(asked)

    def _refuse_long(self) -> None:
        for index, name in enumerate(self.order if "truncation" in self.repaired else []):
            length = len(self._question(index)) + len(self._labels(index))
            if length > self.run.train_tokens:
                raise InputError(f"distill.train_tokens = {self.run.train_tokens}: problem {name} needs {length}")


def build_examples(
    run: params.DistillRun, tokenizer: PreTrainedTokenizerBase, answered: datasets.Dataset | None
) -> Examples:
    """The arm's training examples.

    Args:
        answered: what the arm's teacher gave (see `store`), or None for the fine-tuned arm, whose answers are the
            dataset's solutions without calculator marks.

    Raises:
        InputError: an example is longer than `train_tokens`, or a response's problem is not in the training split; or
            the arm is `shuffled` and there is one response only.
    """
    return Examples(run, tokenizer, answered)


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


def collate(batch: Sequence[Example], pad: int) -> dict[str, Any]:
    """A batch, padded on the right.

    Returns `input_ids` and `attention_mask` [batch, tokens]; `positions` [batch, n], 0 where padded; `labels` [batch,
    n], `IGNORED` where padded (never by token id: pad and end-of-sequence may be the same token); `problem_ids`
    [batch]; with a teacher `scored` [batch, n], `top_ids` and `top_logprobs` [batch, n, k], `tail_logprobs` [batch, n].
    """
    ids = [row["input_ids"] for row in batch]
    padded: dict[str, Any] = {
        "input_ids": _pad(ids, np.int64, pad),
        "attention_mask": _pad([[1] * len(row) for row in ids], np.int64),
        "positions": _pad([row["positions"] for row in batch], np.int64),
        "labels": _pad([row["labels"] for row in batch], np.int64, losses.IGNORED),
        "problem_ids": [row["problem_id"] for row in batch],
    }
    if "scored" in batch[0]:
        padded["scored"] = _pad([row["scored"] for row in batch], np.bool_)
        padded |= {key: _pad([row[key] for row in batch], KINDS[key]) for key in SIGNAL if key in batch[0]}
    return padded


def _pad(rows: Sequence[Any], kind: Any, fill: int = 0) -> Tensor:
    """Rows of different lengths as one tensor [rows, longest, ...]."""
    arrays: list[NDArray[Any]] = [np.asarray(row, kind) for row in rows]
    padded = np.full((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), fill, kind)
    for target, array in zip(padded, arrays, strict=True):
        target[: len(array)] = array
    return torch.from_numpy(padded)
