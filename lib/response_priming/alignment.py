"""Alignment: which position of the student meets which label, and which of the teacher's distributions.

`response`: the student reads the bare question and an answer; each token of the answer is predicted from the position
before it, where the teacher's distribution over the same token stands as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from response_priming import losses, params, priming, problems
from response_priming.errors import InputError

Example = dict[str, Any]
SIGNAL = ("top_ids", "top_logprobs", "tail_logprobs")
KINDS = {"top_ids": np.int64, "top_logprobs": np.float32, "tail_logprobs": np.float32}


def store(run: params.DistillRun) -> Path | None:
    """The folder with what the arm's teacher gave: responses or signals over prompts; None without a teacher."""
    found = params.store_of(run.arm, run)
    return run.build / found if found else None


class Examples(Dataset[Example]):
    """Training examples, each made when it is asked for, so that memory does not grow with their number.

    An example is `problem_id`, `input_ids` (what the student reads), `positions` [n] (which of them are scored),
    `labels` [n] (the token wanted there, or `IGNORED`), and with a teacher `scored` [n] (whether its distribution
    counts there), `top_ids` and `top_logprobs` [n, k], `tail_logprobs` [n].
    """

    def __init__(
        self,
        run: params.DistillRun,
        tokenizer: PreTrainedTokenizerBase,
        answered: Sequence[Mapping[str, Any]] | None,
    ) -> None:
        self.run, self.tokenizer, self.answered = run, tokenizer, answered
        self.asked = {p.id: p for p in problems.load(run, "train", run.n_train, seed=run.seed)}
        self.order = [row["problem_id"] for row in answered] if answered is not None else list(self.asked)
        if unknown := next((name for name in self.order if name not in self.asked), None):
            raise InputError(f"responses/{run.arm}: problem {unknown} is not among the {run.n_train} of train")
        for index, name in enumerate(self.order):
            length = len(self._prompt(index)) + len(self._target(index))
            if length > run.train_tokens:
                raise InputError(f"distill.train_tokens = {run.train_tokens}: problem {name} needs {length}")

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Example:
        prompt, target = self._prompt(index), self._target(index)
        example: Example = {
            "problem_id": self.order[index],
            "input_ids": prompt + target[:-1],
            "positions": list(range(len(prompt) - 1, len(prompt) + len(target) - 1)),
            "labels": target,
        }
        if self.answered is None:
            return example
        row = self.answered[index]
        # The store's signal is flat; a dense one has neither ids nor a tail.
        signal = {key: np.reshape(row[key], (len(target), -1)) for key in SIGNAL if key in row}
        if "tail_logprobs" in signal:
            signal["tail_logprobs"] = signal["tail_logprobs"][:, 0]
        return example | {"scored": [True] * len(target)} | signal

    def _prompt(self, index: int) -> list[int]:
        question = self.asked[self.order[index]].question
        return priming.encode(self.tokenizer, priming.bare(question, self.run.system_prompt))

    def _target(self, index: int) -> list[int]:
        if self.answered is not None:
            return list(map(int, self.answered[index]["tokens"]))
        return priming.encode_response(self.tokenizer, self.asked[self.order[index]].worked)


def build_examples(
    run: params.DistillRun, tokenizer: PreTrainedTokenizerBase, answered: Sequence[Mapping[str, Any]] | None
) -> Examples:
    """The arm's training examples.

    Args:
        answered: the teacher's responses (see `responses`), or None for the fine-tuned arm, whose answers are the
            dataset's solutions without calculator marks.

    Raises:
        InputError: an example is longer than `train_tokens`, or a response's problem is not in the training split.
    """
    return Examples(run, tokenizer, answered)


def collate(batch: Sequence[Example], pad: int) -> dict[str, Any]:
    """A batch, padded on the right.

    Returns `input_ids` and `attention_mask` [batch, tokens]; `positions` [batch, n], 0 where padded; `labels` [batch,
    n], `IGNORED` where padded (never by token id: pad and end-of-sequence may be the same token); `problem_ids`
    [batch]; and with a teacher `scored` [batch, n], `top_ids` and `top_logprobs` [batch, n, k], `tail_logprobs`
    [batch, n].
    """
    ids = [row["input_ids"] for row in batch]
    labels = _pad([row["labels"] for row in batch], np.int64, losses.IGNORED)
    padded: dict[str, Any] = {
        "input_ids": _pad(ids, np.int64, pad),
        "attention_mask": _pad([[1] * len(row) for row in ids], np.int64),
        "positions": _pad([row["positions"] for row in batch], np.int64),
        # The trainer counts tokens by `shift_labels`, as they are; by `labels` alone it would leave out the first
        # column, which models that shift inside their loss never score.
        "labels": labels,
        "shift_labels": labels,
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
