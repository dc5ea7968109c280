"""Attention for many sequences that begin alike: the shared beginning's keys and values are stored and read once.

The softmax runs over the shared keys and a sequence's own keys together, so the result is that of plain attention; only
the products with the shared part are one matrix product for all sequences instead of one for each (cf. Juravsky et al.
2024, arXiv 2402.05099). Importing this module registers it in transformers as the attention implementation `cascade`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from response_priming.errors import InputError

CASCADE = "cascade"
# A common beginning shorter than this is not worth a forward pass of its own.
SHORTEST_SHARED_PREFIX = 8


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; at least one token of each is left over, 0 where it is not worth it."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    return length if length >= SHORTEST_SHARED_PREFIX else 0


class Slots(Cache):
    """Keys and values of up to `slots` sequences of `width` tokens each, on top of the shared beginning's.

    Sequences occupy the first slots; `begin` is how many tokens the shared beginning has. `at` names the slots and
    columns that the next forward pass writes.
    """

    def __init__(self, shared: DynamicCache, slots: int, width: int) -> None:
        super().__init__(layer_class_to_replicate=type(shared.layers[0]))
        self.shared, self.slots, self.width = shared, slots, width
        self.begin = shared.get_seq_length()
        self.own: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, slots: Tensor, columns: Tensor) -> None:
        """Write to these consecutive `slots` [rows], token by token into `columns` [rows, tokens]."""
        self.places = slots[:, None], slice(None), columns
        self.seen = slice(int(slots[0]), int(slots[-1]) + 1), slice(None), slice(int(columns.max()) + 1)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Store [rows, heads, tokens, size]; returns (shared, own) keys and (shared, own) values."""
        if layer_idx not in self.own:
            # Not empty: an unused column is masked, but zero times an undefined value may be no number.
            shape = (self.slots, key_states.shape[1], self.width)
            self.own[layer_idx] = (
                key_states.new_zeros(*shape, key_states.shape[-1]),
                value_states.new_zeros(*shape, value_states.shape[-1]),
            )
        shared: Any = self.shared.layers[layer_idx]
        for store, states in zip(self.own[layer_idx], (key_states, value_states), strict=True):
            store[self.places] = states.transpose(1, 2)
        keys, values = (store[self.seen] for store in self.own[layer_idx])
        return (shared.keys, keys), (shared.values, values)

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Copy one slot's content to another."""
        for stores in self.own.values():
            for store in stores:
                store[target] = store[source]

    def mask(self, starts: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of own keys, [rows, 1, tokens, width]: a sequence's columns begin at `starts`
        [rows], and a token in a column of `columns` [rows, tokens] sees none after it."""
        key = torch.arange(int(columns.max()) + 1, device=columns.device)
        seen = (key >= starts[:, None, None]) & (key <= columns[:, :, None])
        # Half of the smallest number: a score added to it stays finite, and padding that sees nothing yields numbers.
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return added.masked_fill(~seen, torch.finfo(dtype).min / 2)[:, None]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention in transformers' calling convention; keys and values that do not come from `Slots` go to sdpa.

    The weights are [rows, heads, tokens, shared and own keys]; sdpa gives none.
    """
    if not isinstance(key, tuple):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if options.get("softcap") or options.get("s_aux") is not None or attention_mask is None:
        raise InputError(
            f"engine transformers: the attention of {type(module).__name__} is not plain softmax; use engine: vllm"
        )
    (shared_keys, keys), (shared_values, values) = key, value
    rows, heads, tokens, size = query.shape
    groups, shared = heads // keys.shape[1], 0 if shared_keys is None else shared_keys.shape[2]
    # Query heads that share a key head stand side by side, as more queries of that head.
    query = (query * (size**-0.5 if scaling is None else scaling)).reshape(rows, -1, groups * tokens, size)
    scores = (query @ keys.mT).unflatten(2, (groups, tokens)) + attention_mask[:, :, None]
    scores = scores.flatten(2, 3)
    if shared:
        common = query.transpose(0, 1).flatten(1, 2) @ shared_keys[0].mT
        scores = torch.cat([common.unflatten(1, (rows, -1)).transpose(0, 1), scores], dim=-1)
    weights = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    output = weights[..., shared:] @ values
    if shared:
        common = weights[..., :shared].transpose(0, 1).flatten(1, 2) @ shared_values[0]
        output = output + common.unflatten(1, (rows, -1)).transpose(0, 1)
    maps = weights.reshape(rows, heads, tokens, -1)
    return output.reshape(rows, heads, tokens, -1).transpose(1, 2).contiguous(), maps


AttentionInterface.register(CASCADE, attend)
AttentionMaskInterface.register(CASCADE, sdpa_mask)
