"""Engine `server`: any OpenAI-compatible completions endpoint that takes and returns token ids, such as `vllm serve`.

Log-probabilities come keyed by token id (`return_tokens_as_token_ids`) and responses with theirs (`return_token_ids`),
both extensions of vLLM's: a token's text does not determine its id. An endpoint without them is refused.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from transformers import PreTrainedTokenizerBase

from response_priming import models
from response_priming.engines.base import Engine, Request, Response, Setup, Signal, check_context, pack, tail_of
from response_priming.errors import InputError

if TYPE_CHECKING:
    from openai import OpenAI

# Tries after the first one, with exponential back-off, of a request that the server was too busy or unable to answer.
RETRIES = 6
PATIENCE = 5.0  # seconds that a server has to say which models it serves, before anything runs
TOKEN_ID = "token_id:"


class ServerEngine(Engine):
    """An OpenAI-compatible server."""

    package, extra = "openai", "server"

    def __init__(self, client: "OpenAI", tokenizer: PreTrainedTokenizerBase, *, model: Any, batch: int) -> None:
        self.client, self.tokenizer, self.model, self.batch = client, tokenizer, model, batch
        self.context: int | None = getattr(model, "max_model_len", None)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """See `Engine.check`: the server is asked once."""
        _connect(setup, max_retries=0, timeout=PATIENCE)

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """The engine, once the server has said that it serves the model (under this name, or as its only one)."""
        client, model = _connect(setup, max_retries=RETRIES)
        return cls(client, models.tokenizer(setup.model, setup.revision), model=model, batch=setup.batch)

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`. How the weights are stored is the server's affair."""
        return {"engine": "server", "model": self.model.id, "batch": self.batch}

    def fulfil(self, request: Request) -> Iterator[tuple[int, Response]]:
        """See `Engine.fulfil`."""
        logprobs = request.top_k or None
        common = {"max_tokens": request.max_tokens, "temperature": request.temperature, "logprobs": logprobs}
        for index, choice in self._ask(request.prompts, [common | {"seed": seed} for seed in request.seeds()]):
            tokens = _given(choice, "token_ids")
            text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
            rows = _rows(choice, len(tokens)) if request.top_k else []
            signal = self._signal(rows, request.top_k) if rows else None
            yield index, Response(tokens, text, choice.finish_reason == "stop", signal)

    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """See `Engine.score`. The last position is that of a token generated for the purpose."""
        check_context(sequences, 1, self.context)
        options = {"max_tokens": 1, "temperature": 0.0, "logprobs": top_k, "extra_body": {"prompt_logprobs": top_k}}
        for index, choice in self._ask(sequences, [options] * len(sequences)):
            read = [
                {int(token): entry["logprob"] for token, entry in row.items()}
                for row in _given(choice, "prompt_logprobs")[1:]
            ]
            yield index, self._signal(read + _rows(choice, 1), top_k)

    def _ask(self, prompts: Sequence[list[int]], options: list[dict[str, Any]]) -> Iterator[tuple[int, Any]]:
        """The server's choices as they come, at most `batch` requests at once."""
        pool = ThreadPoolExecutor(self.batch)
        try:
            asked = {
                pool.submit(self._complete, prompt, **values): index
                for index, (prompt, values) in enumerate(zip(prompts, options, strict=True))
            }
            for future in as_completed(asked):
                yield asked.pop(future), future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _complete(self, prompt: list[int], *, extra_body: Mapping[str, Any] | None = None, **options: Any) -> Any:
        from openai import OpenAIError

        extra = {"return_token_ids": True, "return_tokens_as_token_ids": True} | dict(extra_body or {})
        try:
            made = self.client.completions.create(model=self.model.id, prompt=prompt, extra_body=extra, **options)
            return made.choices[0]
        except OpenAIError as error:
            raise InputError(f"server_url = {str(self.client.base_url)!r}: {_reason(error)}") from None

    def _signal(self, rows: list[dict[int, float]], k: int) -> Signal:
        """A row may hold one entry more: the token that is there, where it is not among the k most likely."""
        if (least := min(map(len, rows))) < k:
            raise InputError(f"top_k = {k}: the server returns {least} log-probabilities; start it with a higher limit")
        top = [sorted(row.items(), key=lambda entry: -entry[1])[:k] for row in rows]
        logprobs = np.array([[value for _, value in row] for row in top], np.float64)
        return pack([[token for token, _ in row] for row in top], logprobs, tail_of(logprobs, len(self.tokenizer)))


def _connect(setup: Setup, **options: Any) -> tuple["OpenAI", Any]:
    """The server, once it has said that it serves the model, and what it says of it."""
    from openai import OpenAI, OpenAIError

    if setup.server_url is None:
        raise InputError("server_url = None: engine server needs one, e.g. http://localhost:8000/v1")
    if setup.quantization != "none" or setup.student:
        raise InputError("engine = 'server': takes no quantization and no adapter; set them where it is started")
    client = OpenAI(base_url=setup.server_url, api_key=os.environ.get("OPENAI_API_KEY", "none"), **options)
    try:
        served = {model.id: model for model in client.models.list()}
    except OpenAIError as error:
        raise InputError(f"server_url = {setup.server_url!r}: {_reason(error)}") from None
    except (AttributeError, TypeError, ValueError):  # as of a web page
        raise InputError(
            f"server_url = {setup.server_url!r}: answers with no list of models; allowed: an API"
        ) from None
    name = models.locate(setup.model)
    if name not in served and len(served) != 1:
        raise InputError(f"server_url = {setup.server_url!r}: does not serve {name}; it serves {', '.join(served)}")
    return client, served[name] if name in served else next(iter(served.values()))


def _given(choice: Any, name: str) -> Any:
    """A field of the answer that only some servers fill."""
    if (value := getattr(choice, name, None)) is None:
        raise InputError(f"engine = 'server': the server returns no {name}; vLLM's does, see `vllm serve`")
    return value


def _rows(choice: Any, length: int) -> list[dict[int, float]]:
    """Log-probability by token id at each of `length` positions."""
    rows = choice.logprobs.top_logprobs if choice.logprobs else None
    if not rows or len(rows) != length or not all(token.startswith(TOKEN_ID) for row in rows for token in row):
        raise InputError("engine = 'server': the server returns no log-probabilities by token id; vLLM's does")
    return [{int(token.removeprefix(TOKEN_ID)): value for token, value in row.items()} for row in rows]


def _reason(error: Exception) -> str:
    """One line of what went wrong, the cause of a failed connection included."""
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{cause}"[:300]


ENGINE = ServerEngine
