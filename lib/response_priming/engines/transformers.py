"""Engine `transformers`: continuous batching on the library that trains the student.

The beginning that all prompts share (system message, worked examples) is computed once. Up to `batch` sequences advance
together, longest prompts first; one that ends leaves its place, and new ones take the free places together.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import numpy as np
import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from response_priming import models, progress
from response_priming.engines.base import Engine, Request, Response, Setup, Signal, check_context, pack, rounded
from response_priming.engines.cascade import CASCADE, Slots, shared_prefix
from response_priming.errors import InputError

# New sequences wait until this share of the places is free: fewer, larger forward passes read their prompts.
FREE_SHARE = 0.25
# Logits held at once by `score` (numbers).
LOGITS = 2**28


@dataclass
class _Sequence:
    """A response in the making. Its own tokens stand in columns `start` to `end` (exclusive) of its slot."""

    index: int
    start: int
    end: int
    draw: random.Random
    tokens: list[int] = field(default_factory=list)
    steps: list[tuple[Any, ...]] = field(default_factory=list)


class TransformersEngine(Engine):
    """The library that trains the student, in this process. The model's attention implementation becomes `cascade`."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, batch: int, quantization: str = "none"
    ) -> None:
        self.model, self.tokenizer, self.batch, self.quantization = model, tokenizer, batch, quantization
        self.context = model.config.get_text_config().max_position_embeddings
        self.vocabulary = models.vocabulary(tokenizer, model.config)
        stops = model.generation_config.eos_token_id
        self.stop_tokens = set(stops) if isinstance(stops, list) else {stops}
        model.set_attn_implementation(CASCADE)
        self._read: tuple[list[int], DynamicCache] = [], DynamicCache(config=model.config)

    @classmethod
    def check(cls, setup: Setup) -> None:
        """See `Engine.check`."""
        if setup.quantization != "none":
            models.quantized(setup.quantization, "float32")

    @classmethod
    def open(cls, setup: Setup) -> Self:
        """The engine with its model loaded."""
        model, tokenizer = models.load_adapted(
            setup.model,
            setup.student,
            revision=setup.revision,
            dtype=setup.dtype,
            device=setup.device,
            quantization=setup.quantization,
        )
        plain = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
        if plain and hasattr(model, "merge_and_unload"):
            # A tenth of the time goes into an adapter's small products. In bf16 the sum would be rounded to 8 bits.
            model = cast("Any", model).merge_and_unload()
        return cls(model, tokenizer, batch=setup.batch, quantization=setup.quantization)

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`."""
        return {
            "engine": f"transformers {transformers.__version__}",
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "quantization": self.quantization,
            "batch": self.batch,
            "end_tokens": sorted(self.stop_tokens - {None}),
        }

    # --- responses ---

    def fulfil(self, request: Request) -> Iterator[tuple[int, Response]]:
        """See `Engine.fulfil`. Out of memory halves the batch and says so on standard error."""
        # Longest first: what needs most memory runs first, and the time left is never underestimated.
        waiting = sorted(range(len(request.prompts)), key=lambda index: -len(request.prompts[index]))
        prefix = self._prefill_shared(request) if waiting else None
        while waiting and prefix is not None:
            done = set()
            try:
                for index, response in self._decode(request, prefix, list(waiting)):
                    done.add(index)
                    yield index, response
            except RuntimeError as error:
                if self.batch == 1 or not should_reduce_batch_size(error):
                    raise
                self.batch //= 2
                progress.say(f"Out of memory: the batch is now {self.batch}.")
            waiting = [index for index in waiting if index not in done]

    @torch.inference_mode()
    def _prefill_shared(self, request: Request) -> DynamicCache:
        cache = DynamicCache(config=self.model.config)
        longest = max(map(len, request.prompts)) + request.max_tokens
        for layer in cache.layers:
            # Exactly a window that nothing leaves is full attention.
            if not (type(layer).__name__ == "DynamicLayer" or getattr(layer, "sliding_window", 0) >= longest):
                raise InputError(
                    f"engine transformers: {self.model.config.model_type} attends by {type(layer).__name__}, which is "
                    "not full attention; use engine: vllm"
                )
        beginning = request.prompts[0][: shared_prefix(request.prompts)]
        # A stage asks batch by batch, and all its prompts begin alike.
        if beginning and beginning == self._read[0]:
            return self._read[1]
        if beginning:
            ids = torch.tensor([beginning], device=self.model.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._read = beginning, cache
        return cache

    def _decode(self, request: Request, prefix: DynamicCache, waiting: list[int]) -> Iterator[tuple[int, Response]]:
        places = min(self.batch, len(waiting))
        width = max(len(request.prompts[index]) for index in waiting) - prefix.get_seq_length() + request.max_tokens
        slots = Slots(prefix, places, width)
        active: list[_Sequence] = []
        while waiting or active:
            free = places - len(active)
            if waiting and (free >= FREE_SHARE * places or not active):
                admitted, waiting = waiting[:free], waiting[free:]
                stepped = self._admit(request, slots, len(active), admitted)
                active += stepped
            else:
                # Read every sequence's last token and append the next.
                stepped, columns = active, torch.tensor([[sequence.end] for sequence in active])
                for sequence in active:
                    sequence.end += 1
                self._forward(request, slots, 0, active, torch.tensor([[s.tokens[-1]] for s in active]), columns)
            ended = [s for s in stepped if s.tokens[-1] in self.stop_tokens or len(s.tokens) == request.max_tokens]
            for sequence in ended:
                place = next(place for place, other in enumerate(active) if other is sequence)
                last = active.pop()
                if last is not sequence:
                    slots.move(len(active), place)
                    active[place] = last
                text = str(self.tokenizer.decode(sequence.tokens, skip_special_tokens=True))
                finished = sequence.tokens[-1] in self.stop_tokens
                parts = [np.stack(values) for values in zip(*sequence.steps, strict=True)]
                asked = (Signal(*parts[:-1]), parts[-1]) if parts else ()
                yield sequence.index, Response(sequence.tokens, text, finished, *asked)

    def _admit(self, request: Request, slots: Slots, first: int, indices: list[int]) -> list[_Sequence]:
        """Read the prompts, left-padded, into the slots from `first` on; returns them with one token each."""
        rests = [request.prompts[index][slots.begin :] for index in indices]
        width = max(map(len, rests))
        new = [
            _Sequence(index, width - len(rest), width, request.random_of(index))
            for index, rest in zip(indices, rests, strict=True)
        ]
        ids = torch.tensor([[0] * (width - len(rest)) + rest for rest in rests])
        self._forward(request, slots, first, new, ids, torch.arange(width).expand(len(new), -1))
        return new

    @torch.inference_mode()
    def _forward(
        self,
        request: Request,
        slots: Slots,
        first: int,
        sequences: list[_Sequence],
        ids: Tensor,
        columns: Tensor,
    ) -> None:
        device = self.model.device
        starts = torch.tensor([sequence.start for sequence in sequences])
        slots.at(torch.arange(first, first + len(sequences)).to(device), columns.to(device))
        logits = self.model(
            input_ids=ids.to(device),
            attention_mask=slots.mask(starts, columns, self.model.dtype).to(device),
            position_ids=(slots.begin + columns - starts[:, None]).clamp(min=0).to(device),
            past_key_values=slots,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1, : self.vocabulary]
        tokens = choose(logits, request.temperature, [sequence.draw for sequence in sequences])
        steps: tuple[Any, ...] = ()
        if request.top_k:
            scores = logits.float().log_softmax(-1).gather(-1, torch.tensor(tokens, device=device)[:, None])
            steps = *signal_of(logits, request.top_k), rounded(scores[:, 0].cpu())
        for row, sequence in enumerate(sequences):
            sequence.tokens.append(tokens[row])
            if steps:
                sequence.steps.append(tuple(array[row] for array in steps))

    # --- scores ---

    @torch.inference_mode()
    def score(self, sequences: Sequence[list[int]], *, top_k: int) -> Iterator[tuple[int, Signal]]:
        """See `Engine.score`."""
        check_context(sequences, 0, self.context)
        order = sorted(range(len(sequences)), key=lambda index: -len(sequences[index]))
        while order:
            width = len(sequences[order[0]])
            rows = max(1, min(self.batch, LOGITS // (width * self.model.config.get_text_config().vocab_size)))
            chunk, order = order[:rows], order[rows:]
            # Padding on the right needs no mask: attention is causal.
            ids = torch.tensor([sequences[i] + [0] * (width - len(sequences[i])) for i in chunk])
            logits = self.model(input_ids=ids.to(self.model.device), use_cache=False).logits
            for row, index in enumerate(chunk):
                yield index, signal_of(logits[row, : len(sequences[index]), : self.vocabulary], top_k)


def choose(logits: Tensor, temperature: float, draws: Sequence[random.Random]) -> list[int]:
    """The next token of each row of logits [rows, vocabulary]: the likeliest at temperature 0, else drawn by inverting
    the cumulative distribution at one uniform number a row."""
    if temperature == 0:
        return cast("list[int]", logits.argmax(-1).tolist())
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    level = torch.tensor([[draw.random()] for draw in draws], dtype=torch.float64, device=logits.device)
    chosen = torch.searchsorted(cumulative, level * cumulative[:, -1:], right=True)
    return cast("list[int]", chosen.clamp(max=logits.shape[-1] - 1)[:, 0].tolist())


def signal_of(logits: Tensor, k: int) -> Signal:
    """The signal of logits [positions, vocabulary], computed in fp32."""
    logits = logits.float()
    total = logits.logsumexp(-1)
    top = logits.topk(min(k, logits.shape[-1]))
    tail = logits.scatter(-1, top.indices, -torch.inf).logsumexp(-1) - total
    return pack(top.indices.cpu(), (top.values - total[:, None]).cpu(), tail.cpu())


ENGINE = TransformersEngine
