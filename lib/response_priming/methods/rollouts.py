"""Rollouts: what the student itself answers to bare questions, drawn at temperature 1 from its whole distribution.

Each answer's random numbers come from the training's seed, the step and the answer's place in the step, and from
nothing else: a training that goes on from a checkpoint draws what it would have drawn, whatever its micro-batch is.
A teacher can be mixed in (Gu et al. 2024, MiniLLM, arXiv 2306.08543, section 2.2): each token is then drawn from
share * teacher + (1 - share) * student, each of them in its own prompt.
"""

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from response_priming.engines.cascade import shared_prefix
from response_priming.engines.transformers import Reader, TransformersEngine, choose
from response_priming.methods.examples import collate
from response_priming.methods.losses import IGNORED
from response_priming.params.divergences import mixed


def draw(seed: int, step: int, item: int) -> random.Random:
    """The random numbers of the answer at a place of a step."""
    return random.Random(f"{seed}-{step}-{item}")


def question(batch: Mapping[str, Any], row: int) -> list[int]:
    """What the student reads before a response, in tokens."""
    tokens: list[int] = batch["input_ids"][row, : int(batch["positions"][row, 0]) + 1].tolist()
    return tokens


def answered(batch: Mapping[str, Any], answers: Mapping[int, list[int]], pad: int) -> dict[str, Any]:
    """A batch of responses with these answers in place of those in their rows; without a teacher's distributions.

    All tokens of an answer are wanted and scored, an end-of-sequence token, too, which may be `pad`; nothing else is.
    """
    rows = []
    for row, name in enumerate(batch["problem_ids"]):
        labels, asked = batch["labels"][row], question(batch, row)
        text = answers.get(row, labels[labels != IGNORED].tolist())
        positions = list(range(len(asked) - 1, len(asked) - 1 + len(text)))
        example = {"problem_id": name, "input_ids": asked + text[:-1], "positions": positions, "labels": text}
        rows.append(example | {"scored": [True] * len(text)})
    device = batch["labels"].device
    return {key: value if key == "problem_ids" else value.to(device) for key, value in collate(rows, pad).items()}


@contextlib.contextmanager
def answering(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> Iterator[TransformersEngine]:
    """The student in training as an engine, for as long as a block lasts: without dropout, and reading by its cache."""
    student, training = cast("Any", model), model.training
    attention = student.config._attn_implementation
    try:
        yield TransformersEngine(student.eval(), tokenizer, batch=1)
    finally:
        student.set_attn_implementation(attention)
        student.train(training)


@torch.no_grad()
def sample(
    engine: TransformersEngine,
    questions: Sequence[list[int]],
    draws: Sequence[random.Random],
    *,
    max_tokens: int,
    teacher: Reader | None = None,
    share: float = 0,
) -> list[list[int]]:
    """An answer to each question, drawn token by token; it ends with a stop token, or with the budget.

    Args:
        questions: the bare prompts, in tokens.
        draws: the random numbers of each answer.
        teacher: reads its own prompts, and has room for the answers; its distributions are mixed in with this `share`.
    """
    own = Reader(engine, questions, shared=shared_prefix(questions), room=max_tokens)
    readers = [own] if teacher is None else [own, teacher]
    read, going = [reader.prompts for reader in readers], list(range(len(questions)))
    answers: list[list[int]] = [[] for _ in questions]
    for _ in range(max_tokens):
        outputs = [reader.read(ids, logits_to_keep=1).logits for reader, ids in zip(readers, read, strict=True)]
        student, *others = [logits[:, -1, : engine.vocabulary].double().log_softmax(-1) for logits in outputs]
        chosen = choose(mixed(others[0], student, share) if others else student, 1.0, draws)
        for row in going:
            answers[row].append(chosen[row])
        going = [row for row in going if chosen[row] not in engine.stop_tokens]
        if not going:
            break
        read = [torch.tensor(chosen)[:, None]] * len(readers)
    return answers


def importance(teacher: Tensor, student: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The weights that make means over mixed samples unbiased for the student's own.

    At each token w = q / (share * p + (1 - share) * q). What is exact over the vocabulary at position t takes the
    product over the tokens before it; what depends on later tokens, too, that over the whole answer. Products of single
    tokens, as in the released code, are biased.

    Args:
        teacher, student: log-probabilities of the drawn tokens, [rows, n]; both 0 where padded.

    Returns:
        [rows, n] and [rows, 1].
    """
    ratio = student - mixed(teacher, student, share)
    total = ratio.cumsum(-1)
    return (total - ratio).exp(), total[:, -1:].exp()
