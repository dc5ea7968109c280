"""Engines: token prompts in, responses out as they finish. One interface, so a stage never asks what runs the model."""

import abc
import importlib
import importlib.util
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from response_priming import params, progress
from response_priming.errors import InputError

# Who reads responses and runs no model does without the model library, which takes seconds to import.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL, GENERATE, CLUSTER = params.Model(), params.Generate.model_validate({}), params.Cluster()
LOWEST = float(np.finfo(np.float16).min)
# Probabilities in fp32 cannot tell a smaller rest from none.
SMALLEST_TAIL = 1e-7


class Signal(NamedTuple):
    """A model's distribution over the next token at each position, at temperature 1; natural logarithms.

    `top_ids` and `top_logprobs` [positions, k]: the k most likely tokens, most likely first; k = vocabulary size is the
    full distribution. `tail_logprobs` [positions]: the mass of all other tokens. Every value is finite: where nothing
    is left, it is fp16's most negative number.
    """

    top_ids: NDArray[np.int32]
    top_logprobs: NDArray[np.float16]
    tail_logprobs: NDArray[np.float16]


@dataclass(frozen=True)
class Response:
    """What a model answered. `tokens` ends with the end-of-sequence token where `finished`; `text` leaves it out.

    `signal` has one position a token, and `token_logprobs` [tokens] the log-probability of the token that was given, at
    temperature 1, also where it is not among the k; NaN where an engine cannot say. None where it was not asked for.
    `failed`: why there is no response, and no token, to this prompt alone; None for a response.
    """

    tokens: list[int]
    text: str
    finished: bool
    signal: Signal | None = field(default=None, repr=False)
    token_logprobs: NDArray[np.float16] | None = field(default=None, repr=False)
    failed: str | None = None


Numbered = TypeVar("Numbered", tuple[int, Response], tuple[int, int, Response])


class Request(NamedTuple):
    """What one call of `Engine.respond` asks for."""

    prompts: Sequence[list[int]]
    max_tokens: int
    top_k: int = 0
    temperature: float = 0.0
    seed: int = 0
    first: int = 0

    def random_of(self, index: int) -> random.Random:
        """The random numbers of one prompt, which do not depend on what is answered beside it."""
        return random.Random(f"{self.seed}-{self.first + index}")

    def seeds(self) -> list[int]:
        """A seed for each prompt, where another program draws."""
        return [self.random_of(index).getrandbits(31) for index in range(len(self.prompts))]


@dataclass(frozen=True)
class Setup:
    """Which model an engine runs, and how.

    `quantization` is `none` or a format of the engine; `batch` is how many prompts are answered at once; `student`
    is the folder of a trained one that began as this model. Parallel sizes are for `vllm`, `server_url` for `server`,
    and what its replicas are for `ray`.
    """

    model: str
    revision: str | None = None
    dtype: str = MODEL.dtype
    device: str = MODEL.device
    quantization: str = GENERATE.teacher_quantization
    student: Path | None = None
    batch: int = GENERATE.generate_batch
    tensor_parallel: int = GENERATE.tensor_parallel
    pipeline_parallel: int = GENERATE.pipeline_parallel
    server_url: str | None = GENERATE.server_url
    replica_engine: str = CLUSTER.replica_engine
    replicas: int = CLUSTER.replicas


class Engine(abc.ABC):
    """What the stages need of an engine.

    `context` is its model's (tokens), None where it is not known; `vocabulary` how many outputs have a token (see
    `models.vocabulary`): no other is ever chosen or in a signal.
    """

    package: str | None = None  # what it needs beside the library's own
    extra: str | None = None  # of pyproject.toml, which installs that
    tokenizer: "PreTrainedTokenizerBase"
    context: int | None
    vocabulary: int

    @classmethod
    @abc.abstractmethod
    def open(cls, setup: Setup) -> Self:
        """The engine with its model loaded; `InputError` where it cannot be."""

    @classmethod  # noqa: B027 - an engine may have nothing to find out
    def check(cls, setup: Setup) -> None:
        """`InputError` where it can be known without loading a model that the engine cannot run this one."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What runs the model: the engine, its version, and how the weights are stored; for a manifest."""

    def respond(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int,
        top_k: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[tuple[int, Response]]:
        """Answer every prompt; yields (index of the prompt, its response) in the order they finish.

        Args:
            max_tokens: budget of a response.
            top_k: tokens of the signal at each position; 0 for none.
            temperature: 0 decodes greedily; above, tokens are drawn, the same ones for the same seed and prompts. A
                prompt given several times is answered anew each time. The signal's temperature is always 1.
            first: where these prompts begin among those that the seed is for, so that a part of them draws the same.

        Raises:
            InputError: a prompt and its budget do not fit the model's context.
        """
        check_context(prompts, max_tokens, self.context)
        return self._completed(Request(prompts, max_tokens, top_k, temperature, seed, first))

    def respond_to(self, requests: Iterable[Request]) -> Iterator[tuple[int, int, Response]]:
        """Answer a stream of requests, which are drawn as they are needed (see `respond`).

        Yields (number of the request, index of the prompt in it, its response), in the order they finish. What a prompt
        is answered depends on its own request alone.
        """
        for number, request in enumerate(requests):
            for index, response in self.respond(**request._asdict()):
                yield number, index, response

    def _completed(self, request: Request) -> Iterator[tuple[int, Response]]:
        """The responses; a signal with fewer tokens than asked for (see `pack_listed`) is read anew, at the end."""
        narrow = {}
        for index, response in self.fulfil(request):
            if response.signal and response.signal.top_ids.shape[1] < min(request.top_k, self.vocabulary):
                narrow[index] = response
            else:
                yield index, response
        read = [[*request.prompts[index], *response.tokens[:-1]] for index, response in narrow.items()]
        for place, signal in self.score(read, top_k=request.top_k) if read else ():
            index, response = list(narrow.items())[place]
            last = slice(-len(response.tokens), None)
            own = Signal(signal.top_ids[last], signal.top_logprobs[last], signal.tail_logprobs[last])
            yield index, replace(response, signal=own)

    @abc.abstractmethod
    def fulfil(self, request: Request) -> Iterator[tuple[int, Response]]:
        """The responses (see `respond`) to prompts that fit the context."""

    @abc.abstractmethod
    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """The distribution after reading each sequence up to and with each of its tokens.

        Yields (index of the sequence, its signal), one position a token.
        """


def teacher_of(run: params.GenerateRun) -> Setup:
    """How a run's teacher answers."""
    return Setup(
        *(run.teacher, run.teacher_revision, run.dtype, run.device, run.teacher_quantization),
        batch=run.generate_batch,
        tensor_parallel=run.tensor_parallel,
        pipeline_parallel=run.pipeline_parallel,
        server_url=run.server_url,
        replica_engine=run.replica_engine,
        replicas=run.replicas,
    )


def require(name: str) -> type[Engine]:
    """The engine of that name; `InputError` where there is none, or the package that it needs is not installed."""
    if name not in get_args(params.Engine):
        raise InputError(f"engine = {name!r}: unknown; allowed: {', '.join(get_args(params.Engine))}")
    engine = cast("type[Engine]", importlib.import_module(f"{__package__}.{name}").ENGINE)
    if engine.package and importlib.util.find_spec(engine.package) is None:
        raise InputError(f"engine = {name!r}: {engine.package} is not installed: pip install '.[{engine.extra}]'")
    return engine


def open_engine(name: str, setup: Setup) -> Engine:
    """The engine of that name with its model loaded; `InputError` where it cannot be."""
    return require(name).open(setup)


def pack(ids: ArrayLike, logprobs: ArrayLike, tails: ArrayLike) -> Signal:
    """A signal from higher precision, rounded to what is stored."""
    return Signal(np.asarray(ids, np.int32), rounded(logprobs), rounded(tails))


def rounded(logprobs: ArrayLike) -> NDArray[np.float16]:
    """Log-probabilities as they are stored; NaN stays."""
    return np.clip(np.asarray(logprobs, np.float64), LOWEST, 0).astype(np.float16)


def pack_listed(ids: ArrayLike, logprobs: ArrayLike, k: int, vocabulary: int) -> Signal:
    """A signal of the k most likely tokens, where log-probabilities are known of listed outputs alone.

    Outputs without a token are taken out, and their probability is shared out in proportion, as if the model had no
    such outputs; of those that are not listed it is part of the tail, where there is one. Where fewer than k tokens are
    left at some position, the signal has so few at all of them.

    Args:
        ids, logprobs: [positions, listed], most likely first.
        vocabulary: how many outputs have a token, the first ones.
    """
    ids, logprobs = np.asarray(ids), np.asarray(logprobs, np.float64)
    if (padding := ids >= vocabulary).any():
        known = np.argsort(padding, axis=-1, kind="stable")[:, : (~padding).sum(-1).min()]
        kept = np.maximum(1 - np.where(padding, np.exp(logprobs), 0).sum(-1, keepdims=True), SMALLEST_TAIL)
        ids, logprobs = (np.take_along_axis(part, known, -1) for part in (ids, logprobs - np.log(kept)))
    ids, logprobs = ids[:, :k], logprobs[:, :k]
    if logprobs.shape[-1] == vocabulary:  # nothing is left that has a token
        logprobs = np.asarray(logprobs - np.logaddexp.reduce(logprobs, axis=-1, keepdims=True), np.float64)
    return pack(ids, logprobs, tail_of(logprobs, vocabulary))


def tail_of(logprobs: NDArray[np.float64], vocabulary: int) -> NDArray[np.float64]:
    """Log-probability of all tokens but the listed ones, [positions, k] -> [positions], where only those are known.

    It is one minus their sum, so an error of their normaliser is as large in the tail: 3e-5 where fp32's log_softmax
    adds up 49,152 tokens on a CPU with AVX2, 2e-5 with AVX-512. Nothing is left where k is `vocabulary`.
    """
    if logprobs.shape[-1] >= vocabulary:
        return np.full(len(logprobs), LOWEST)
    rest = 1 - np.exp(logprobs).sum(-1)
    return np.asarray(np.log(np.maximum(rest, SMALLEST_TAIL)), np.float64)


def never(vocabulary: int, outputs: int) -> dict[int, float] | None:
    """What is added to the logits of outputs without a token, by id, where another program chooses; None if all have
    one. It is the least that OpenAI's interface takes."""
    return dict.fromkeys(range(vocabulary, outputs), -100.0) or None


def check_context(prompts: Sequence[list[int]], max_tokens: int, context: int | None) -> None:
    """`InputError` where a prompt and its budget of new tokens do not fit the model's context."""
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {index}: has no tokens")
        if context is not None and len(prompt) + max_tokens > context:
            raise InputError(
                f"prompt {index}: its {len(prompt)} tokens and {max_tokens} new ones exceed the model's context of "
                f"{context} tokens"
            )


def counted(responses: Iterator[Numbered], bar: progress.Bar) -> Iterator[Numbered]:
    """The responses, which come last in what is yielded, each counted by the bar."""
    for answered in responses:
        bar.answered(len(answered[-1].tokens))
        yield answered
