"""The first step of a training, replayed: the bare student reads the first batch, a sequence at a time.

Loss and gradient must be the logged ones, whatever trained the student. Where they are not, the loss is computed again
as each known fault would have it, and the fault that gives the logged number is named. Only what a step is made of is
taken from the trainer: its order of examples, and the adapter's first weights.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

from response_priming import arms, artifacts, generate, params, problems, prompts
from response_priming.methods.base import Method
from response_priming.methods.examples import stream

LOWEST = -1e4  # as good as a probability of zero, and finite
DRAWS = 3  # wrong answers that each question meets
EXPLAINED = 0.1  # how far, as a share, the loss that a fault would give may be from the logged one


class Pair(NamedTuple):
    """What a student reads, and what it is to answer, as token ids.

    `hard`: the answer's tokens are labels. `signal`: the teacher's arrays at each of them, [tokens, ...]; or empty.
    """

    question: str
    prompt: list[int]
    answer: list[int]
    hard: bool
    signal: dict[str, Tensor]


# Of log-probabilities [tokens, vocabulary], a row a token that was read, the parts of a pair's loss [n].
Score = Callable[[Tensor, Pair], Tensor]


class Course(NamedTuple):
    """What an arm's student was to learn: `run` as its manifest has it, `profile` as the doctor is given it.

    `responses`: those that train, None without a teacher; `order`: the problem of every example; `training`: the
    examples that are not held out.
    """

    profile: params.DoctorRun
    run: params.DistillRun
    seed: int
    folder: Path
    tokenizer: Any
    asked: dict[str, problems.Problem]
    held_out: list[str]
    responses: Any
    order: list[str]
    training: list[int]

    @classmethod
    def of(cls, profile: params.DoctorRun, arm: str, seed: int, tokenizer: Any) -> "Course":
        """The course of an arm's student."""
        folder = profile.student_of(arm, seed)
        recorded = artifacts.read(folder)["recipe"]["parameters"]
        run = params.DistillRun.of(profile.model_dump() | recorded | {"data_dir": profile.data_dir})
        asked = {problem.id: problem for problem in problems.load(run, "train", run.n_train, seed=run.seed)}
        held_out = list(asked)[len(asked) - round(run.held_out * len(asked)) :]
        responses = generate.dataset(run.store) if run.store else None
        order = list(asked) if responses is None else list(map(str, responses["problem_id"]))
        training = [place for place, name in enumerate(order) if name not in held_out]
        return cls(profile, run, seed, folder, tokenizer, asked, held_out, responses, order, training)

    def prompt(self, question: str, *, system: bool = True, primed: bool = False, examples: int = 0) -> list[int]:
        """A prompt, by default the student's: the bare question. The arm's teacher is `primed` and sees examples."""
        shown = problems.load(self.profile, "validation", examples, seed=self.profile.seed) if examples else []
        prefix = prompts.prefix_of(self.run.arm) if primed and self.run.arm not in arms.CONTROLS else ""
        said = self.run.system_prompt if system else ""
        chat = prompts.messages(question, system_prompt=said, prefix=prefix, examples=shown)
        return prompts.encode(self.tokenizer, chat, self.run.prompt_date)

    def others(self, question: str) -> Iterator[list[int]]:
        """What a student may be asked by mistake: plain text, no system prompt, what its teacher is asked."""
        yield prompts.encode_plain(self.tokenizer, question)
        yield self.prompt(question, system=False)
        for examples in (0, self.profile.worked_examples):
            yield self.prompt(question, primed=True, examples=examples)

    def solved(self, name: str) -> Pair:
        """A problem and the data set's solution."""
        question, solution = self.asked[name].question, self.asked[name].worked
        return Pair(question, self.prompt(question), prompts.encode_response(self.tokenizer, solution), True, {})

    def pairs(self, place: int) -> list[Pair]:
        """An example: the response, and with hard labels of gold the solution after it."""
        solved = self.solved(self.order[place])
        if self.responses is None:
            return [solved]
        row, gold = self.responses[place], self.run.hard_labels == "gold"
        if self.run.signal == "text":
            answer, signal = prompts.encode_response(self.tokenizer, str(row["text"])), {}
        else:
            answer, kept = list(map(int, row["tokens"])), [key for key in generate.SIGNAL if key in row]
            kinds = {"top_ids": np.int64}
            arrays = {key: np.reshape(row[key], (len(answer), -1)).astype(kinds.get(key, np.float32)) for key in kept}
            signal = {key: torch.from_numpy(values) for key, values in arrays.items()}
        return [solved._replace(answer=answer, hard=not gold, signal=signal), *([solved] if gold else [])]


def read(model: Any, pair: Pair) -> Tensor:
    """The model's log-probabilities [tokens, vocabulary] of the next token after each of prompt and answer."""
    ids = torch.tensor([[*pair.prompt, *pair.answer]], device=model.device)
    return cast("Tensor", model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1))


def hard(logprobs: Tensor, pair: Pair, *, shift: int = 0, whole: bool = False, closing: bool = True) -> Tensor:
    """Cross-entropy of a pair's labels; as a fault would have it, where these are scored `shift` positions too late,
    are those of the `whole` text, or lack the `closing` one."""
    ids = torch.tensor([*pair.prompt, *pair.answer], device=logprobs.device)
    first, last = (1 if whole else len(pair.prompt)), len(ids) - 1
    labels = torch.arange(first, last + closing, device=logprobs.device)
    labels = labels[(labels + shift >= first) & (labels + shift <= last)]
    return -logprobs[labels - 1 + shift, ids[labels]]


def soft(
    logprobs: Tensor, pair: Pair, run: params.DistillRun, *, shift: int = 0, heats: tuple[float, ...] = ()
) -> Tensor:
    """Divergence from the teacher's distributions to the student's, times T^2; as a fault would have it, where these
    are met `shift` positions too late, or have temperatures of their own (`heats`: the teacher's, the student's)."""
    count, begin = len(pair.answer), len(pair.prompt) - 1
    rows = {key: values.to(logprobs.device)[max(0, -shift) : count - shift] for key, values in pair.signal.items()}
    student = logprobs[begin + max(0, shift) : begin + count + min(0, shift)]
    teacher = rows["top_logprobs"].clamp(LOWEST)
    if "top_ids" in rows:
        rest = student.scatter(-1, rows["top_ids"], -math.inf).logsumexp(-1, keepdim=True)
        teacher = torch.cat([teacher, rows["tail_logprobs"].clamp(LOWEST)], -1)
        student = torch.cat([student.gather(-1, rows["top_ids"]), rest], -1)
    heats = heats or (run.kd_temperature, run.kd_temperature)
    softened = [(part / heat).log_softmax(-1) for part, heat in zip((teacher, student), heats, strict=True)]
    return run.kd_temperature**2 * run.soft_loss.between(softened[0], softened[1], run.divergence_share)


class Replay(NamedTuple):
    """What the first step's log should say of each part, `hard` and, with a teacher, `soft`.

    `losses`: nats per position; `norms`: of each part's gradient, weighted; `norm`: of their sum, before clipping.
    """

    model: Any
    batch: list[Pair]
    losses: dict[str, float]
    norms: dict[str, float]
    norm: float


def replay(course: Course) -> Replay:
    """The first step of a course."""
    set_seed(course.seed)
    model: Any = Method(course.run).student()[0].eval()
    chosen = stream(cast("Any", course.training), count=course.run.train_batch, seed=course.seed).indices
    batch = [pair for place in chosen for pair in course.pairs(course.training[place])]
    counts = {part: sum(len(pair.answer) for pair in _with(part, batch)) for part in ("hard", "soft")}
    counts = {part: count for part, count in counts.items() if count}
    shares = {"hard": course.run.alpha if "soft" in counts else 1.0, "soft": 1 - course.run.alpha}
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    gradients = {part: [torch.zeros_like(weight) for weight in weights] for part in counts}
    losses = dict.fromkeys(counts, 0.0)
    for pair in batch:
        logprobs = read(model, pair)
        for part in [part for part in counts if _with(part, [pair])]:
            loss = _right(part, course)(logprobs, pair).sum() / counts[part]
            losses[part] += loss.item()
            found = torch.autograd.grad(shares[part] * loss, weights, retain_graph=True)
            gradients[part] = [total + more for total, more in zip(gradients[part], found, strict=True)]
    norm_of = torch.nn.utils.get_total_norm
    norms = {part: float(norm_of(parts)) for part, parts in gradients.items()}
    norm = float(norm_of([sum(parts) for parts in zip(*gradients.values(), strict=True)]))
    return Replay(model, batch, losses, norms, norm)


def _with(part: str, pairs: Sequence[Pair]) -> list[Pair]:
    return [pair for pair in pairs if (pair.hard if part == "hard" else pair.signal)]


def _right(part: str, course: Course) -> Score:
    return hard if part == "hard" else functools.partial(soft, run=course.run)


def explain(course: Course, replayed: Replay, part: str, logged: float) -> str:
    """The fault under which a part of the first step's loss would be the logged one; `loss` where it is none of them.

    `labels`, scored a position too early or too late; `prompt`, scored, too; `closing`, the token that ends an answer,
    not scored; `temperature`, on one side only; `accumulation`: means of micro-batches, not of the step; `template`:
    another prompt; `pairs`: answers to other questions. Which question each answer met is then not known, but what
    wrong ones cost is, within three standard errors.
    """
    pairs, model = _with(part, replayed.batch), replayed.model
    right: Any = _right(part, course)
    scores: dict[str, list[Score]] = {"labels": [functools.partial(right, shift=shift) for shift in (-1, 1)]}
    if part == "hard":
        scores |= {"prompt": [functools.partial(hard, whole=True)], "closing": [functools.partial(hard, closing=False)]}
    elif (heat := course.run.kd_temperature) != 1:
        sides = ((heat, 1.0), (1.0, heat), (1.0, 1.0))
        scores["temperature"] = [functools.partial(soft, run=course.run, heats=heats) for heats in sides]
    supposed = {name: [_mean(parts) for parts in scored(model, pairs, some)] for name, some in scores.items()}
    (parts,), supposed["accumulation"] = scored(model, pairs, [right]), []
    for size in [size for size in range(1, len(parts)) if len(parts) % size == 0]:
        means = [_mean(parts[first : first + size]) for first in range(0, len(parts), size)]
        supposed["accumulation"] += [sum(means), sum(means) / len(means)]
    asked = zip(*(course.others(pair.question) for pair in pairs), strict=True)
    others = [[pair._replace(prompt=prompt) for pair, prompt in zip(pairs, some, strict=True)] for some in asked]
    supposed["template"] = [_mean(scored(model, some, [right])[0]) for some in others]
    off = {name: min(abs(value / logged - 1) for value in values) for name, values in supposed.items() if values}
    drawn = np.random.default_rng(course.seed).choice(course.training, (DRAWS, len(pairs)))
    wrong = [_with(part, course.pairs(int(place)))[0] for place in drawn.flat]
    met = [answer._replace(prompt=pair.prompt) for pair, answer in zip(pairs * DRAWS, wrong, strict=True)]
    cost = np.array([parts.mean().item() for parts in scored(model, met, [right])[0]])
    # Never the best explanation where one of the exact ones fits.
    off["pairs"] = max(0.01, abs(cost.mean() / logged - 1) - 3 * cost.std() / math.sqrt(len(pairs)) / logged)
    name = min(off, key=lambda name: off[name])
    return name if off[name] < EXPLAINED else "loss"


@torch.inference_mode()
def scored(model: Any, pairs: Sequence[Pair], scores: Sequence[Score]) -> list[list[Tensor]]:
    """What each score says of every pair, from one forward pass a pair."""
    found = [[score(logprobs, pair) for score in scores] for pair in pairs for logprobs in [read(model, pair)]]
    return [list(column) for column in zip(*found, strict=True)]


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())
