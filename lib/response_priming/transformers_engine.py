"""Engine `transformers`: batched decoding by the library that trains the student."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import PeftModel
from tqdm import tqdm
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from response_priming import models
from response_priming.engines import Response, Setup, Signal, pack

# A common beginning shorter than this is not worth a forward pass of its own.
SHORTEST_SHARED_PREFIX = 32


class TransformersEngine:
    """Batched greedy decoding by transformers.

    Prompts of like length share a batch, and the beginning that all prompts share (system message, worked examples) is
    computed once.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch: int) -> None:
        self.model, self.tokenizer, self.batch = model, tokenizer, batch
        stops = model.generation_config.eos_token_id
        self.stop_tokens = set(stops) if isinstance(stops, list) else {stops}

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """The engine with its model loaded."""
        model, tokenizer = models.load(setup.model, revision=setup.revision, dtype=setup.dtype, device=setup.device)
        if setup.adapter:
            model = cast("PreTrainedModel", PeftModel.from_pretrained(model, setup.adapter).eval())
        return cls(model, tokenizer, batch=setup.batch)

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`."""
        return {"engine": f"transformers {transformers.__version__}", "dtype": str(self.model.dtype)}

    @torch.inference_mode()
    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """See `Engine.score`."""
        for index, tokens in enumerate(sequences):
            logits = self.model(input_ids=torch.tensor([tokens], device=self.model.device), use_cache=False).logits[0]
            yield index, signal_of(logits, top_k)

    def respond(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: int,
        top_k: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[tuple[int, Response]]:
        """See `Engine.respond`."""
        if temperature > 0:
            torch.manual_seed(seed)
        self.sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        shared = shared_prefix(prompts)
        cache = self._prefill(prompts[0][:shared]) if shared else None
        # Longest first: the batch that needs most memory runs first, and the time left is never underestimated.
        order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        with tqdm(total=len(prompts), unit="response", mininterval=2, leave=False) as progress:
            for start in range(0, len(order), self.batch):
                indices = order[start : start + self.batch]
                responses = self._respond_batch([prompts[i] for i in indices], shared, cache, max_tokens, top_k)
                progress.update(len(indices))
                yield from zip(indices, responses, strict=True)

    @torch.inference_mode()
    def _prefill(self, prefix: list[int]) -> DynamicCache:
        ids = torch.tensor([prefix], device=self.model.device)
        cache = DynamicCache(config=self.model.config)
        self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache

    @torch.inference_mode()
    def _respond_batch(
        self, prompts: list[list[int]], shared: int, cache: DynamicCache | None, max_tokens: int, top_k: int
    ) -> list[Response]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), int(self.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            # The padding sits between the shared beginning, which is already in the cache, and the rest.
            ids[row, :shared] = torch.tensor(prompt[:shared])
            ids[row, width - len(prompt) + shared :] = torch.tensor(prompt[shared:])
            mask[row, :shared] = 1
            mask[row, width - len(prompt) + shared :] = 1
        recorder = _TopK(top_k)
        generate = cast("Callable[..., torch.Tensor]", self.model.generate)
        output = generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            past_key_values=_repeat(cache, len(prompts)) if cache else None,
            max_new_tokens=max_tokens,
            **self.sampling,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([recorder] if top_k else []),
        )
        return [self._response(row, tokens, recorder) for row, tokens in enumerate(output[:, width:].tolist())]

    def _response(self, row: int, tokens: list[int], recorder: "_TopK") -> Response:
        end = next((position for position, token in enumerate(tokens) if token in self.stop_tokens), None)
        finished = end is not None
        tokens = tokens[: end + 1] if end is not None else tokens
        text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        return Response(tokens, text, finished, *recorder.of(row, len(tokens)))


class _TopK(LogitsProcessor):
    """Records the k most likely tokens of every decoding step, so that vocabulary-sized rows are never kept."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.steps: list[Signal] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(signal_of(scores, self.k))
        return scores

    def of(self, row: int, length: int) -> Iterator[NDArray[Any]]:
        """The arrays of one row's signal; none where no step was recorded."""
        for arrays in zip(*self.steps[:length], strict=True):
            yield np.stack([step[row] for step in arrays])


def signal_of(logits: torch.Tensor, k: int) -> Signal:
    """The signal of logits [positions, vocabulary], computed in fp32."""
    logits = logits.float()
    total = logits.logsumexp(-1)
    top = logits.topk(min(k, logits.shape[-1]))
    tail = logits.scatter(-1, top.indices, -torch.inf).logsumexp(-1) - total
    return pack(top.indices.cpu(), (top.values - total[:, None]).cpu(), tail.cpu())


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; at least one token of each is left over, 0 where it is not worth it."""
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    return length if length >= SHORTEST_SHARED_PREFIX and len(prompts) > 1 else 0


def _repeat(cache: DynamicCache, rows: int) -> DynamicCache:
    """A copy of a one-row cache for a batch; the original stays as it was."""
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(rows)
    return copied
