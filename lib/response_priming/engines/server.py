"""Engine `server`: any OpenAI-compatible completions endpoint that takes and returns token ids, such as `vllm serve`.

Log-probabilities come keyed by token id (`return_tokens_as_token_ids`) and responses with theirs (`return_token_ids`),
both extensions of vLLM's: a token's text does not determine its id. An endpoint without them is refused.

The server's key is the value of RESPONSE_PRIMING_API_KEY. It goes to the host of `server_url` alone: by https, or
within this machine, and never to where that host redirects to.
"""

import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from pydantic import BaseModel, Field, HttpUrl, ValidationError
from transformers import PreTrainedTokenizerBase

from response_priming import models, progress
from response_priming.engines.base import (
    Engine,
    Request,
    Response,
    Setup,
    Signal,
    check_context,
    never,
    pack_listed,
    rounded,
)  # fmt: skip
from response_priming.errors import InputError

if TYPE_CHECKING:
    from openai import OpenAI

# Tries after the first one, with exponential back-off, of a request that the server was too busy or unable to answer.
RETRIES = 6
PATIENCE = 5.0  # seconds that a server has to say which models it serves, before anything runs
TOKEN_ID = "token_id:"
KEY = "RESPONSE_PRIMING_API_KEY"


class Served(BaseModel):
    """A model, as the server lists it."""

    id: str
    max_model_len: int | None = None


class Listing(BaseModel):
    """a list of models"""

    data: list[Served]


class Entry(BaseModel):
    """A token of a prompt, or one that might have stood there."""

    logprob: float


class Logprobs(BaseModel):
    """The likely tokens of a response, by position."""

    top_logprobs: list[dict[str, float]] | None = None


class Choice(BaseModel):
    """A response; only some servers fill what may be None."""

    finish_reason: str | None
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: list[dict[int, Entry] | None] | None = None


class Completion(BaseModel):
    """a completion"""

    choices: list[Choice] = Field(min_length=1)


Answer = TypeVar("Answer", Listing, Completion)


class ServerEngine(Engine):
    """An OpenAI-compatible server."""

    package, extra = "openai", "server"

    def __init__(
        self,
        client: "OpenAI",
        tokenizer: PreTrainedTokenizerBase,
        *,
        model: Any,
        batch: int,
        outputs: int,
        ends: Sequence[int],
    ) -> None:
        self.client, self.tokenizer, self.model, self.batch = client, tokenizer, model, batch
        self.context: int | None = getattr(model, "max_model_len", None)
        self.outputs, self.ends, self.vocabulary = outputs, list(ends), min(len(tokenizer), outputs)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """See `Engine.check`: the server is asked once."""
        _connect(setup, max_retries=0, timeout=PATIENCE)

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """The engine, once the server has said that it serves the model (under this name, or as its only one)."""
        client, model = _connect(setup, max_retries=RETRIES)
        named = setup.model, setup.revision
        reader, outputs = models.tokenizer(*named), int(models.config(*named).get_text_config().vocab_size)
        ends = models.end_tokens(reader, *named)
        return cls(client, reader, model=model, batch=setup.batch, outputs=outputs, ends=ends)

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`. How the weights are stored is the server's affair."""
        return {"engine": "server", "model": self.model.id, "batch": self.batch, "end_tokens": sorted(self.ends)}

    def fulfil(self, request: Request) -> Iterator[tuple[int, Response]]:
        """See `Engine.fulfil`."""
        width = request.top_k if request.top_k < self.vocabulary else self.outputs
        common: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
        common |= {"logprobs": width or None, "extra_body": {"stop_token_ids": self.ends}}
        if bias := never(self.vocabulary, self.outputs):
            common |= {"logit_bias": {str(token): value for token, value in bias.items()}}
        for index, choice in self._ask(request.prompts, [common | {"seed": seed} for seed in request.seeds()]):
            tokens = _given(choice, "token_ids")
            text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
            rows = _rows(choice, len(tokens)) if width else []
            given = [row.get(token, np.nan) for row, token in zip(rows, tokens, strict=False)]
            asked = (self._signal(rows, width, request.top_k), rounded(given)) if rows else ()
            yield index, Response(tokens, text, choice.finish_reason == "stop", *asked)

    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """See `Engine.score`. The last position is that of a token generated for the purpose."""
        check_context(sequences, 1, self.context)
        width = min(top_k + self.outputs - self.vocabulary, self.outputs)
        options = {"max_tokens": 1, "temperature": 0.0, "logprobs": width, "extra_body": {"prompt_logprobs": width}}
        for index, choice in self._ask(sequences, [options] * len(sequences)):
            rows = [row or {} for row in _given(choice, "prompt_logprobs")[1:]]
            if len(rows) + 1 != (length := len(sequences[index])):
                raise InputError(f"engine = 'server': the server scores {len(rows) + 1} of {length} tokens")
            read = [{token: entry.logprob for token, entry in row.items()} for row in rows]
            yield index, self._signal(read + _rows(choice, 1), width, top_k)

    def _ask(self, prompts: Sequence[list[int]], options: list[dict[str, Any]]) -> Iterator[tuple[int, Choice]]:
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

    def _complete(self, prompt: list[int], *, extra_body: Mapping[str, Any] | None = None, **options: Any) -> Choice:
        extra = {"return_token_ids": True, "return_tokens_as_token_ids": True} | dict(extra_body or {})
        ask = self.client.completions.with_raw_response.create
        options |= {"model": self.model.id, "prompt": prompt, "extra_body": extra}
        return _answer(self.client, Completion, lambda: ask(**options)).choices[0]

    def _signal(self, rows: list[dict[int, float]], width: int, k: int) -> Signal:
        """A row may hold one entry more: the token that is there, where it is not among the `width` most likely."""
        if (least := min(map(len, rows))) < width:
            raise InputError(
                f"top_k = {k}: the server returns {least} log-probabilities; start it with a limit of {width} or more"
            )
        top = [sorted(row.items(), key=lambda entry: -entry[1])[:width] for row in rows]
        ids, logprobs = ([[entry[part] for entry in row] for row in top] for part in (0, 1))
        return pack_listed(ids, logprobs, k, self.vocabulary)


def _connect(setup: Setup, **options: Any) -> tuple["OpenAI", Any]:
    """The server, once it has said that it serves the model, and what it says of it."""
    from openai import DefaultHttpxClient, OpenAI

    if setup.server_url is None:
        raise InputError("server_url = None: engine server needs one, e.g. http://localhost:8000/v1")
    if setup.quantization != "none" or setup.student:
        raise InputError("engine = 'server': takes no quantization and no adapter; set them where it is started")
    key = os.environ.get(KEY, "").strip()
    here = _is_here(setup.server_url, key)
    # A proxy on the way to this machine would see the key.
    http = DefaultHttpxClient(follow_redirects=False, trust_env=not here)
    client = OpenAI(base_url=setup.server_url, api_key=key or "none", http_client=http, **options)
    client.organization = client.project = None  # of an account elsewhere, from the environment
    if key:
        progress.say(f"{KEY} goes to {client.base_url.scheme}://{client.base_url.netloc.decode()}")
    listed = _answer(client, Listing, client.models.with_raw_response.list)
    served = {model.id: model for model in listed.data}
    name = models.locate(setup.model)
    if name not in served and len(served) != 1:
        names = ", ".join(served) or "none"
        raise InputError(f"server_url = {setup.server_url!r}: does not serve {name}; it serves {names}")
    return client, served[name] if name in served else next(iter(served.values()))


def _is_here(url: str, key: str) -> bool:
    """Whether a server's address is of this machine; `InputError` where it is none, or no place for the key."""
    try:
        address = HttpUrl(url)
        host = str(address.host).strip("[]")
    except ValidationError:
        raise InputError(f"server_url = {url!r}: must be an address as http://localhost:8000/v1") from None
    if address.username or address.password:
        raise InputError(f"server_url (host {host}): must hold no user or password; a key is taken from {KEY}")
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if key and address.scheme != "https" and not here:
        raise InputError(f"server_url = {url!r}: must be https://; {KEY} is set, and would be sent in clear")
    return here


def _answer(client: "OpenAI", kind: type[Answer], ask: Callable[[], Any]) -> Answer:
    """What a request is answered; `InputError` where it is not, or otherwise than such a server does."""
    from openai import APIStatusError, OpenAIError

    try:
        answer = ask()
        return kind.model_validate_json(answer.content)
    except ValidationError:
        came = f"{answer.headers.get('content-type')}: {answer.text}"
    except APIStatusError as error:
        hint = f" (a key is taken from {KEY})" if error.status_code == 401 else ""
        came = f"{error.status_code}{hint}: {error.response.text}"
    except OpenAIError as error:
        came = f"{type(error).__name__}: {error} ({error.__cause__})"
    if key := os.environ.get(KEY, "").strip():  # which a server may repeat
        came = came.replace(key, KEY)
    came, address = " ".join(came.split())[:200], str(client.base_url).rstrip("/")
    raise InputError(f"server_url = {address!r}: {came}; expected is {kind.__doc__}, as `vllm serve` gives it")


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


ENGINE = ServerEngine
